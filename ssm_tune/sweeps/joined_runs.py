"""Runs of a sweep that train together, in one process; each comes out as it would by itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

from ssm_tune.config.compose import Composer
from ssm_tune.config.schema import Config
from ssm_tune.experiment.load_data import load_data
from ssm_tune.experiment.run_lock import Request, write_early_failure
from ssm_tune.experiment.shared import Shared
from ssm_tune.experiment.signals import note_signals, raise_stopped, stopped_early
from ssm_tune.records.run_id import label_of, labels_of, request_hash
from ssm_tune.sweeps.one_run import Outcome, line_of, outcome_of_error, run_settings, told
from ssm_tune.sweeps.status import early_failure_path
from ssm_tune.utils.errors import NotJoined, Stopped
from ssm_tune.utils.phases import CLOCK


def run_joined(
    runs: Sequence[Sequence[str]], together: int | None, shared: Shared, composer: Composer
) -> list[Outcome] | None:
    """The outcome of each of the runs, by their settings; those that cannot be joined are run one after another.

    together: runs at once; None: as many as pay. Ctrl-C goes through. None: none is begun (``Shared.fits``).
    """
    try:
        with CLOCK.one_run(), raise_stopped():
            configs = [composer.config(run) for run in runs]
            if not shared.fits(configs[0]):
                return None
            return _run(configs, runs, together, shared)
    except NotJoined as error:
        print(f"ssm-tune: these {len(runs)} runs do not train together: {error}", file=sys.stderr)
        return _in_a_row(runs, shared, composer)
    except Exception as error:  # of all of them
        return [outcome_of_error(error)] * len(runs)


def _run(
    configs: Sequence[Config], runs: Sequence[Sequence[str]], together: int | None, shared: Shared
) -> list[Outcome]:
    requests = [Request(request_hash(config), label_of(run)) for config, run in zip(configs, runs, strict=True)]
    try:
        with CLOCK.phase("data"):
            data = load_data(configs[0], shared)
        with note_signals() as stop_request:
            from ssm_tune.experiment.run_together import run_together  # torch
        if stop_request.signal is not None:
            raise stopped_early(stop_request.signal)
        results = run_together(configs, data, requests, labels_of(runs), together, shared)
    except (NotJoined, Stopped):
        raise
    except Exception as error:
        for config, request in zip(configs, requests, strict=True):
            _note_failure(error, config, request)
        raise
    outcomes = []
    for result, config, request in zip(results, configs, requests, strict=True):
        if isinstance(result, Exception):
            if not isinstance(result, Stopped):
                _note_failure(result, config, request)
            outcomes.append(outcome_of_error(result))
            continue
        with suppress(OSError):
            early_failure_path(config).unlink(missing_ok=True)
        outcomes.append(told(result.record, result.path, result.is_new))
    return outcomes


def _note_failure(error: Exception, config: Config, request: Request) -> None:
    """Write down a failure that came before the run's folder was locked, where it would be noted otherwise."""
    if not request.locked:
        write_early_failure(early_failure_path(config), request, line_of(error))


def _in_a_row(runs: Sequence[Sequence[str]], shared: Shared, composer: Composer) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for run in runs:
        if outcomes and outcomes[-1].status == "stopped":
            outcomes.append(Outcome("stopped", "stopped before it had begun", exit=outcomes[-1].exit))
            continue
        outcome = run_settings(run, shared, composer)
        assert outcome is not None  # the process has done none of another kind: the first fitted
        outcomes.append(outcome)
    return outcomes
