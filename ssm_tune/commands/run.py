"""The default command: run one run, or with -m many."""

from __future__ import annotations

import os
import sys

import hydra
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ssm_tune.config.compose import HYDRA_BEHAVIOR, explained
from ssm_tune.config.groups import conf_dir
from ssm_tune.config.hydra_errors import explain
from ssm_tune.config.overrides import at_home, require_single
from ssm_tune.config.schema import checked, register
from ssm_tune.sweeps.one_run import run_config
from ssm_tune.sweeps.run_sweep import run_many
from ssm_tune.training.distributed import rank_zero_reports, world_size
from ssm_tune.utils.errors import UserError

MANY = ("-m", "--multirun")


def main(arguments: list[str]) -> int:
    """Run the run, or with -m the runs, that a command line asks for; the exit status.

    Raises UserError, and for a single run whatever ended it.
    """
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through instead of printing and exiting
    arguments = [at_home(argument) for argument in arguments]
    settings = [argument for argument in arguments if argument not in MANY]
    with rank_zero_reports():
        if world_size() > 1 and len(settings) < len(arguments):
            raise UserError("torchrun's processes train one run together: start it without -m, a command a run")
    if len(settings) < len(arguments) and not any(argument.startswith("-") for argument in settings):
        return run_many(settings)
    for argument in arguments:
        if argument.lstrip("+").startswith(("sweep=", "sweep.", "hydra/launcher=")) and len(settings) == len(arguments):
            raise UserError(f"{argument} is for many runs: add -m")
    if not any(argument.startswith("-") for argument in arguments):
        with rank_zero_reports():
            require_single(arguments)
    return _run_one(arguments)


def _run_one(arguments: list[str]) -> int:
    """One run, or what Hydra's own flags ask for."""
    failed: list[Exception] = []
    statuses: list[int] = []

    def task(composed: DictConfig) -> None:
        try:
            with rank_zero_reports():
                config = checked(composed, arguments)
            statuses.append(run_config(config, arguments).exit)
        except Exception as error:  # kept and raised after Hydra is through, which would print lines of its own
            failed.append(error)

    program = hydra.main(config_path=str(conf_dir()), config_name="config", **HYDRA_BEHAVIOR)(task)
    before = sys.argv
    sys.argv = ["ssm-tune", *arguments]
    try:
        with rank_zero_reports():
            explained(program, arguments)
    finally:
        sys.argv = before
    for error in failed:
        if isinstance(error, OmegaConfBaseException):
            with rank_zero_reports():
                raise UserError(explain(error, arguments)) from error
        raise error
    return max(statuses, default=0)
