"""From the command line's overrides to runs, through Hydra; Hydra's errors become one line each."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssm_tune.config.groups import conf_dir, family_of, method_section
from ssm_tune.config.hydra_errors import explain
from ssm_tune.config.overrides import at_home
from ssm_tune.config.schema import Config, checked, register
from ssm_tune.config.variants import with_tuned_options
from ssm_tune.utils.errors import UserError

RATE = "train.learning_rate"
HYDRA_BEHAVIOR: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
"""How Hydra composes and runs: as 1.3 does, which Hydra 1.4 does by itself and warns where it is asked for."""


def compose(arguments: Sequence[str]) -> Config:
    """The configuration that a command line of settings stands for, without running it. Raises UserError."""
    register()

    def composed() -> Config:
        with hydra.initialize_config_dir(str(conf_dir()), **HYDRA_BEHAVIOR):
            return checked(hydra.compose("config", [at_home(argument) for argument in arguments]), arguments)

    return explained(composed, arguments)


def explained(work: Callable[[], Any], arguments: Sequence[str]) -> Any:
    """What ``work`` returns, with errors in composing the settings as a UserError. arguments: those settings."""
    try:
        return work()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, list(arguments))) from error
    except (ValueError, TypeError) as error:  # as a number for a group gives
        raise UserError(f"cannot compose the settings: {error}") from error
    except OSError as error:
        raise UserError(f"output_dir: cannot write {error.filename} ({error.strerror})") from error


class Composer:
    """Composes the runs of a sweep. Runs that differ in seed, method and learning rate alone share a composition, which
    takes 0.1 s.

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
        frame = copy.deepcopy(self._frames[frame_key])
        asked = {str(name): value for name, value in parsed.items()}
        method = method_section(own["method"], asked, family_of(frame.model))
        changes["method"] = with_tuned_options(method, frame.tuned, frame.model, frame.task, asked)
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
