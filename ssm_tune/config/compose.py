"""From the command line's overrides to cells, through Hydra; Hydra's errors become one line each."""

from __future__ import annotations

import copy
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssm_tune.config.hydra_errors import explain
from ssm_tune.config.schema import Config, checked, conf_dir, method_section, register
from ssm_tune.training.distributed import processes, said_once
from ssm_tune.utils.errors import UserError

MANY = ("-m", "--multirun")
RATE = "train.learning_rate"


def run_cells(arguments: list[str]) -> int:
    """Run the cell, or with -m the cells, that a command line asks for; the exit status.

    Raises UserError, and for a single cell whatever ended it.
    """
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through instead of printing and exiting
    settings = [argument for argument in arguments if argument not in MANY]
    with said_once():
        if processes() > 1 and len(settings) < len(arguments):
            raise UserError("torchrun's processes train one cell together: start it without -m, a command a cell")
    if len(settings) < len(arguments) and not any(argument.startswith("-") for argument in settings):
        from ssm_tune.sweeps.run_sweep import run_many

        return run_many(settings)
    for argument in arguments:
        if argument.lstrip("+").startswith(("sweep=", "sweep.", "hydra/launcher=")) and len(settings) == len(arguments):
            raise UserError(f"{argument} is for many cells: add -m")
    return _run_one(arguments)


def _run_one(arguments: list[str]) -> int:
    """One cell, or what Hydra's own flags ask for."""
    failed: list[Exception] = []
    statuses: list[int] = []

    def task(composed: DictConfig) -> None:
        from ssm_tune.sweeps.worker import run_config

        try:
            with said_once():
                config = checked(composed)
            statuses.append(run_config(config, arguments).exit)
        except Exception as error:  # kept and raised after Hydra is through, which would print lines of its own
            failed.append(error)

    program = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)
    before = sys.argv
    sys.argv = ["ssm-tune", *arguments]
    try:
        with said_once():
            _explained(program, arguments)
    finally:
        sys.argv = before
    for error in failed:
        if isinstance(error, OmegaConfBaseException):
            with said_once():
                raise UserError(explain(error, arguments)) from error
        raise error
    return max(statuses, default=0)


def compose(arguments: Sequence[str]) -> Config:
    """The configuration that a command line of settings stands for, without running it. Raises UserError."""
    register()

    def composed() -> Config:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return checked(hydra.compose("config", list(arguments)))

    return _explained(composed, arguments)


def _explained(work: Callable[[], Any], arguments: Sequence[str]) -> Any:
    try:
        return work()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, list(arguments))) from error
    except (ValueError, TypeError) as error:  # as a number for a group gives
        raise UserError(f"cannot compose the settings: {error}") from error
    except OSError as error:
        raise UserError(f"output_dir: cannot write {error.filename} ({error.strerror})") from error


class Composer:
    """Composes the cells of a sweep. Cells that differ in seed, method and learning rate alone share a composition,
    which takes 0.1 s.

    That they may is so because a method's yaml is a plain section: nothing else depends on it.
    """

    def __init__(self) -> None:
        self._frames: dict[tuple[str, ...], Config] = {}

    def config(self, overrides: Sequence[str]) -> Config:
        """As ``compose`` does. Raises UserError."""
        own, common = dict[str, str](), list[str]()
        for override in overrides:
            key, _, value = override.partition("=")
            if key in ("seed", "method") or key.startswith("method.") or (key == RATE and _is_number(value)):
                own[key] = value
            else:
                common.append(override)
        plain = _plain_methods()
        if own.get("method") not in plain or not own.get("seed", "0").isdigit():
            return compose(overrides)
        frame_key = tuple(common)
        if frame_key not in self._frames:
            self._frames[frame_key] = compose([*common, f"method={own['method']}"])
        changes: dict[str, Any] = {"seed": int(own["seed"])} if "seed" in own else {}
        options = {name.removeprefix("method."): value for name, value in own.items() if name.startswith("method.")}
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"{name}={value}" for name, value in options.items()]))
        assert isinstance(parsed, dict)
        changes["method"] = method_section(own["method"], {str(name): value for name, value in parsed.items()})
        frame = copy.deepcopy(self._frames[frame_key])
        if RATE in own:
            changes["train"] = dataclasses.replace(frame.train, learning_rate=float(own[RATE]))
        return dataclasses.replace(frame, **changes)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@cache
def _plain_methods() -> set[str]:
    """The methods whose yaml changes nothing but its own section."""
    return {
        path.stem
        for path in (conf_dir() / "method").glob("*.yaml")
        if "@package" not in (text := path.read_text(encoding="utf-8")) and "defaults:" not in text
    }
