"""ssm-tune -m: many runs. Skips what is done, hands the rest to the launcher, ends with a table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from ssm_tune.config.compose import HYDRA_BEHAVIOR, Composer
from ssm_tune.config.groups import conf_dir
from ssm_tune.config.hydra_errors import explain
from ssm_tune.config.schema import Config, checked
from ssm_tune.records.run_id import labels_of
from ssm_tune.sweeps.check_runs import check_run
from ssm_tune.sweeps.joined import groups_of, tell_alone
from ssm_tune.sweeps.one_run import Outcome, outcome_of, run_config
from ssm_tune.sweeps.status import Results, record_path
from ssm_tune.sweeps.sweep_file import PlannedRun, Sweep, read_sweep
from ssm_tune.utils.errors import UserError, first_line
from ssm_tune.utils.text import printable

MOST_TOLD = 3
"""Mistakes in the settings of runs that one line tells."""
BAD = ("failed", "diverged", "stopped")


class Task:
    """What a launcher is given: runs one composed run. stop_on_error: start none after a failure. groups: the runs'
    numbers, those that train together in one list. together: how many of these at once; None: as pays."""

    def __init__(self, stop_on_error: bool, groups: Sequence[list[int]] = (), together: int | None = 1) -> None:
        self.stop_on_error, self.groups, self.together = stop_on_error, groups, together

    def __call__(self, composed: DictConfig) -> Outcome:
        return run_config(checked(composed, HydraConfig.get().overrides.task), [])


def run_many(settings: Sequence[str]) -> int:
    """Run what is missing; 0 if no run failed, else the worst run's status.

    Raises UserError for a mistake in a sweep file or in every run, before anything runs.
    """
    return max((outcome.exit for outcome in run_sweep(read_sweep(settings))), default=0)


def run_sweep(sweep: Sweep) -> list[Outcome]:
    """Run the sweep's runs that are missing and print the table; the outcome of each. Raises as ``run_many``."""
    outcomes = _looked_up(sweep)
    waiting = [number for number, outcome in enumerate(outcomes) if outcome is None]
    kept = sum(outcome is not None and outcome.status == "kept" for outcome in outcomes)
    print(
        f"{len(sweep.runs)} run{'s' * (len(sweep.runs) != 1)}: {kept} done already, {len(waiting)} to run",
        file=sys.stderr,
    )
    stop = sweep.on_error == "stop"
    if waiting and not (stop and any(outcome and outcome.status == "failed" for outcome in outcomes)):
        runs = [sweep.runs[number].overrides for number in waiting]
        launched = _launch(sweep, runs, Task(stop, _groups(runs, sweep.together), sweep.together))
        for number, outcome in zip(waiting, launched, strict=False):
            outcomes[number] = outcome
    ended = [outcome or Outcome("not run") for outcome in outcomes]
    print("\n".join(table(sweep.runs, ended)), flush=True)
    return ended


def _groups(runs: Sequence[Sequence[str]], together: int | None) -> list[list[int]]:
    """The numbers of the runs, those that train together in one list; says which have none to train with."""
    if together == 1:
        return [[number] for number in range(len(runs))]
    composer = Composer()
    groups = groups_of([composer.config(run) for run in runs], together)
    tell_alone(runs, groups)
    return groups


def _looked_up(sweep: Sweep) -> list[Outcome | None]:
    """The outcomes that are known without running: of runs that are done. Raises UserError where a run cannot run."""
    composer, outcomes = Composer(), list[Outcome | None]()
    results: dict[tuple[str, bool], Results] = {}
    errors: dict[int, UserError] = {}
    waiting: dict[int, Config] = {}
    for number, run in enumerate(sweep.runs):
        outcomes.append(None)
        try:
            config = composer.config(run.overrides)
            place = (config.output_dir, config.trial)
            if place not in results:
                results[place] = Results(*place)
                for warning in results[place].warnings:
                    print(f"note: {printable(warning)}", file=sys.stderr)
            outcomes[-1] = _known(results[place], config, alone=len(sweep.runs) == 1)
            if outcomes[-1] is None:
                waiting[number] = config
        except UserError as error:
            errors[number] = error
    if waiting and not errors:
        print(f"checking {len(waiting)} run{'s' * (len(waiting) != 1)}", file=sys.stderr, flush=True)  # imports PyTorch
        errors = _errors_of(waiting)
    if errors:
        raise UserError(_told(errors, sweep.runs)) from next(iter(errors.values()))
    for number, outcome in enumerate(outcomes, start=1):
        if outcome is not None and outcome.status == "failed":
            print(f"ssm-tune: run {number} failed: {printable(outcome.line)}", file=sys.stderr)
    return outcomes


def _errors_of(configs: Mapping[int, Config]) -> dict[int, UserError]:
    """By the runs' numbers what is wrong with them, as far as it can be known before they begin."""
    errors = {}
    for number, config in configs.items():
        try:
            check_run(config)
        except UserError as error:
            errors[number] = error
    return errors


def _told(errors: Mapping[int, UserError], runs: Sequence[PlannedRun]) -> str:
    """One line for what is wrong with some of the runs: of each error the first run that has it."""
    if len(runs) == 1:
        return " ".join(filter(None, [f"{runs[0].origin}:" if runs[0].origin else "", str(errors[0])]))
    first: dict[str, int] = {}
    for number, error in errors.items():
        first.setdefault(str(error), number)
    labels = labels_of([run.overrides for run in runs])
    places = [
        f"{runs[number].origin or f'run {number + 1}'}: {error} ({labels[number]})" for error, number in first.items()
    ]
    if len(first) == 1 and len(errors) == len(runs) and not runs[0].origin:
        return next(iter(first))
    more = f"; and {len(places) - MOST_TOLD} more" if len(places) > MOST_TOLD else ""
    return f"{'; '.join(places[:MOST_TOLD])}{more}; {len(errors)} of {len(runs)} runs cannot run, so none was started"


def _known(results: Results, config: Config, alone: bool) -> Outcome | None:
    """The outcome of a run that is done, or that is passed over: its process died the last time.

    alone: whether the sweep has no other run, so that it is asked for by name.
    """
    if config.force:
        return None
    state = results.state(config)
    if state.record is not None:
        return outcome_of(state.record, record_path(state), fresh=False)
    if state.crash and not alone:
        return Outcome("failed", f"passed over: {state.crash}; run it alone, or with force=true, to try again", exit=1)
    return None


def _launch(sweep: Sweep, runs: list[list[str]], task: Task) -> list[Outcome]:
    """Hand the runs to Hydra's launcher, whichever it is; their outcomes, in order, as far as it got."""
    hydra_settings = [*sweep.hydra, *(item for item in runs[0] if item.startswith("output_dir="))]
    try:
        with hydra.initialize_config_dir(str(conf_dir()), **HYDRA_BEHAVIOR):
            main = GlobalHydra.instance().hydra
            assert main is not None
            config = main.compose_config("config", hydra_settings, RunMode.MULTIRUN, with_log_configuration=False)
            with open_dict(config):
                config.hydra.runtime.output_dir = config.hydra.sweep.dir
            context = HydraContext(main.config_loader, Callbacks(config))
            launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, list(sweep.hydra))) from error
    return [_outcome(job) for job in launcher.launch(runs, 0)]


def returned(overrides: Sequence[str], outcome: Outcome) -> JobReturn:
    """An outcome as Hydra's launchers return it."""
    return JobReturn(overrides=overrides, _return_value=outcome, status=JobStatus.COMPLETED)


def _outcome(job: Any) -> Outcome:
    try:
        found = job.return_value
    except Exception as error:  # of a launcher that is not ours
        return Outcome("failed", str(error) if isinstance(error, UserError) else first_line(error), exit=1)
    return found if isinstance(found, Outcome) else Outcome("failed", "the launcher returned no outcome", exit=1)


def table(runs: Sequence[PlannedRun], outcomes: Sequence[Outcome]) -> list[str]:
    """A line a run (what tells it from the others, status, score, seconds), then how many of each status."""
    rows = [("run", "status", "score", "seconds")]
    for label, outcome in zip(labels_of([run.overrides for run in runs]), outcomes, strict=True):
        seconds = "" if outcome.seconds is None else f"{outcome.seconds:.0f}"
        rows.append((printable(label), outcome.status, outcome.score or "", seconds))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for number, row in enumerate(rows):
        line = f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]:>{widths[3]}}".rstrip()
        lines.append(line)
        if number and outcomes[number - 1].status in (*BAD, "held"):
            lines.append(f"    {printable(outcomes[number - 1].line[:200])}")
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    lines.append(", ".join(f"{count} {status}" for status, count in counts.items()))
    return lines
