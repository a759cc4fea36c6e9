"""One run of many, and how it came out: errors become an outcome, so that no run takes others with it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssm_tune.config.schema import Config
from ssm_tune.experiment.done_already import finished_run
from ssm_tune.experiment.load_data import load_data
from ssm_tune.experiment.run_lock import Locked, Request, write_early_failure
from ssm_tune.experiment.shared import Shared
from ssm_tune.experiment.signals import note_signals, raise_stopped, stopped_early
from ssm_tune.metrics.names import heading
from ssm_tune.records.record import why_diverged
from ssm_tune.records.run_id import label_of, request_hash
from ssm_tune.reporting.summary import summary
from ssm_tune.sweeps.status import early_failure_path
from ssm_tune.training.distributed import is_rank_zero, rank_zero_reports
from ssm_tune.utils.errors import Stopped, UserError, first_line
from ssm_tune.utils.phases import CLOCK

if TYPE_CHECKING:
    from ssm_tune.config.compose import Composer


@dataclass(frozen=True)
class Outcome:
    """How a run came out.

    status: done, kept (was done already), held (another process runs it), failed, diverged, stopped, not run.
    line: what to say of it. record: its path. seconds: of the run. exit: the process's exit status.
    """

    status: str
    line: str = ""
    record: str | None = None
    score: str | None = None
    seconds: float | None = None
    exit: int = 0


def run_config(config: Config, overrides: Sequence[str], shared: Shared | None = None) -> Outcome:
    """Run the run and print what came of it. Raises what ends it: UserError, Stopped, anything.

    shared: what the process keeps for its next run; None where there is none.
    """
    request, early_failure = Request(request_hash(config), label_of(overrides)), early_failure_path(config)
    try:
        with raise_stopped():
            with rank_zero_reports(), CLOCK.phase("data"):
                data = load_data(config, shared)
                done = finished_run(config, data)
            if done is not None:
                with suppress(OSError):
                    early_failure.unlink(missing_ok=True)
                return told(done[1], done[0], fresh=False)
            if shared is None and is_rank_zero():  # seconds of silence come now; of many runs the launcher speaks
                what = f"{config.method['name']} on {data.task.name} ({data.dataset.name})"
                print(f"starting {what}, {data.model_name}, seed {config.seed}", file=sys.stderr, flush=True)
            # an exception raised by a signal's handler within torch's import is lost there, or aborts the process
            with note_signals() as stop_request:
                from ssm_tune.experiment.run import run  # torch: not before configuration and data are known to be good
            if stop_request.signal is not None:
                raise stopped_early(stop_request.signal)
            result = run(config, data, request, shared)
    except (Locked, Stopped):
        raise
    except Exception as error:
        if not request.locked and is_rank_zero():
            write_early_failure(early_failure, request, line_of(error))
        raise
    with suppress(OSError):
        early_failure.unlink(missing_ok=True)
    if not is_rank_zero():
        return outcome_of(result.record, result.path, result.is_new)
    return told(result.record, result.path, result.is_new)


def told(record: Any, path: Path, fresh: bool) -> Outcome:
    """The outcome of a run that has its record, printed as it is made."""
    if not fresh:
        print("this run is done already (force=true runs it again)", file=sys.stderr)
    outcome = outcome_of(record, path, fresh)
    if outcome.status == "diverged":
        print(f"ssm-tune: the run {outcome.line}", file=sys.stderr)
    else:
        print(outcome.score if "trial" in record else summary(record))
    print(f"{'trial' if 'trial' in record else 'record'}: {path}", flush=True)
    return outcome


def outcome_of(record: Any, path: Path, fresh: bool) -> Outcome:
    seconds = record["seconds"]["total"]
    if record["status"] == "diverged":
        return Outcome("diverged", why_diverged(record), str(path), None, seconds, 1)
    name = record["primary_metric"]
    values = record["best"]["selection"] if "trial" in record else record["metrics"]["best"]["report"]
    score = f"{heading(name)} {100 * values[name]:.2f}"
    if "trial" in record:
        score += f" on {record['examples']} of {record['splits']['selection']}"
    return Outcome("done" if fresh else "kept", "", str(path), score, seconds)


def run_settings(
    overrides: Sequence[str], shared: Shared | None = None, composer: Composer | None = None
) -> Outcome | None:
    """Compose and run one run of many; whatever ends it becomes its outcome. Ctrl-C goes through.

    None: the run is not begun, as it needs a process that has done none of another kind (``Shared.fits``).
    """
    from ssm_tune.config.compose import compose

    try:
        with CLOCK.one_run(), raise_stopped():
            config = composer.config(overrides) if composer else compose(overrides)
            if shared is not None and not shared.fits(config):
                return None
            return run_config(config, overrides, shared)
    except Exception as error:
        return outcome_of_error(error)


def outcome_of_error(error: Exception) -> Outcome:
    """The outcome of a run that an error has ended."""
    if isinstance(error, Locked):
        return Outcome("held", str(error))
    if isinstance(error, Stopped):
        return Outcome("stopped", str(error), exit=128 + error.signal)
    if os.environ.get("SSM_TUNE_TRACEBACK"):
        traceback.print_exception(error)
    return Outcome("failed", line_of(error), exit=2 if isinstance(error, UserError) else 1)


def line_of(error: BaseException) -> str:
    text = str(error) if isinstance(error, UserError) else f"unexpected {first_line(error)}"
    return " ".join(text.split())
