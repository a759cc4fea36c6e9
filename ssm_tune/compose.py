"""From the command line's overrides to cells, through Hydra; Hydra's errors become one line each."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssm_tune.config import Config, checked, conf_dir, names, nearest, register
from ssm_tune.errors import Stopped, UserError
from ssm_tune.summary import summary


class _Cells:
    """The cells of this command as Hydra runs them here, one after another; a failed one does not stop the rest.

    Errors are kept and raised after Hydra is through: raised inside, they would print lines of Hydra's own.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.diverged = 0

    def __call__(self, composed: DictConfig) -> None:
        if isinstance(self.error, Stopped):
            return  # whoever asked meant all of the command
        job = HydraConfig.get()
        many = job.mode == RunMode.MULTIRUN
        if many:
            print(f"cell {job.job.num + 1}: {job.job.override_dirname}", file=sys.stderr)
        try:
            self._run(composed)
        except Exception as error:
            # without traceback and causes where others follow: they would keep this cell's model in memory
            self.error = error.with_traceback(None) if many else error
            if many:
                self.error.__context__ = self.error.__cause__ = None
            if many and not isinstance(error, Stopped):
                print(f"ssm-tune: cell {job.job.num + 1} failed: {_explain(error)}", file=sys.stderr)

    def _run(self, composed: DictConfig) -> None:
        config = checked(composed)
        from ssm_tune.run import run  # torch: not before the configuration is known to be good

        finished = run(config)
        if not finished.fresh:
            print("this cell is done already (force=true runs it again)", file=sys.stderr)
        if finished.record["status"] == "diverged":
            self.diverged += 1
            why = next(note for note in finished.record["notes"] if note.startswith("diverged"))
            print(f"ssm-tune: the run {why}", file=sys.stderr)
        else:
            print(summary(finished.record))
        print(f"record: {finished.path}", flush=True)


def run_cells(arguments: list[str]) -> int:
    """Compose and run; 0 if every cell has its record, 1 if one diverged. Raises the last cell's error, if any."""
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through instead of printing and exiting
    cells = _Cells()

    def task(composed: DictConfig) -> None:
        cells(composed)

    program = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)
    before = sys.argv
    sys.argv = ["ssm-tune", *arguments]
    try:
        program()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error, arguments)) from error
    except (ValueError, TypeError) as error:  # as a number for a group gives
        raise UserError(f"cannot compose the settings: {error}") from error
    except OSError as error:  # Hydra's own folder of a multirun
        raise UserError(f"output_dir: cannot write {error.filename} ({error.strerror})") from error
    finally:
        sys.argv = before
    if isinstance(cells.error, OmegaConfBaseException):
        raise UserError(_explain(cells.error, arguments)) from cells.error
    if cells.error is not None:
        raise cells.error
    return 1 if cells.diverged else 0


def compose(arguments: list[str]) -> Config:
    """The configuration that a command line of settings stands for, without running it. Raises UserError."""
    register()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return checked(hydra.compose("config", arguments))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error, arguments)) from error
    except (ValueError, TypeError) as error:
        raise UserError(f"cannot compose the settings: {error}") from error


def _explain(error: BaseException, arguments: list[str] | None = None) -> str:
    """One line for an error of Hydra or OmegaConf, with the nearest valid names."""
    if isinstance(error, UserError):
        return str(error)
    text, cause = "", error
    while cause is not None:
        text, cause = f"{text}\n{cause}", cause.__cause__  # type: ignore[assignment]
    for pattern, explain in _EXPLANATIONS:
        found = re.search(pattern, text)
        if found:
            return str(explain(*found.groups()))
    for pattern in _UNKNOWN_KEYS:
        found = re.search(pattern, text)
        if found:
            key = found[1].lstrip("+~")
            return f"there is no setting {key!r}: {nearest(key, _known_keys(arguments or []))}"
    return " ".join(str(error).split())


def _unknown_choice(group: str, name: str) -> str:
    return f"there is no {group} {name!r}: {nearest(name, names(group))}"


def _missing_choice(group: str) -> str:
    return f"{group} is not given: add {group}=NAME, one of {', '.join(names(group))}"


def _wrong_value(value: str, wanted: str, key: str) -> str:
    # OmegaConf's words, and Python's, which it uses for others
    kinds = {"integer": "int", "boolean": "bool", "string": "str"}
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    kind = kinds.get(wanted.lower(), wanted.lower())
    return f"{key} must be {words.get(kind, wanted)}, got {value!r}"


def _bad_syntax(text: str) -> str:
    return f"cannot read the argument {text!r}: settings are given as key=value (quote values with blanks or commas)"


def _not_a_value(key: str) -> str:
    return f"{key} is a group of settings and takes no plain value"


_EXPLANATIONS: list[tuple[str, Callable[..., str]]] = [
    (r"Could not find '(\w+)/([^'\n]+)'", _unknown_choice),
    (r"You must specify '(\w+)'", _missing_choice),
    (r"Value '([^'\n]*)' of type '\w+' could not be converted to (\w+)\s+full_key: (\S+)", _wrong_value),
    (r"Value '([^'\n]*)' is not a valid (\w+).*\s+full_key: (\S+)", _wrong_value),
    (r"Error parsing override '([^'\n]*)'", _bad_syntax),
    (r"LexerNoViableAltException: ([^\n]*)", _bad_syntax),
    (r"Error merging override (\w+)=", _not_a_value),
]
_UNKNOWN_KEYS = (r"Could not override '([^'\n]+)'", r"Key '\w+' (?:is not in struct|not in '\w+')\s+full_key: (\S+)")


def _known_keys(arguments: list[str]) -> list[str]:
    """Every setting that this command line could take, dotted: the shared ones, those of its model, task, method."""
    keys = set(_dotted(OmegaConf.to_container(OmegaConf.structured(Config)), ""))
    chosen = dict(argument.lstrip("+").split("=", 1) for argument in arguments if "=" in argument)
    for group in ("model", "task", "method"):
        for name in chosen.get(group, "").split(",") if group in chosen else names(group):
            path = conf_dir() / group / f"{name}.yaml"
            if path.is_file():
                section = OmegaConf.to_container(OmegaConf.load(path))
                assert isinstance(section, dict)
                keys |= set(_dotted(section.get(group, section), f"{group}."))
    return sorted(keys)


def _dotted(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        elif value != "???" and key not in ("defaults", "_target_", "published"):
            yield f"{prefix}{key}"
