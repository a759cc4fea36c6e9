"""From the command line's overrides to cells, through Hydra; Hydra's errors become one line each."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssm_tune.config import checked, conf_dir, names, nearest, register
from ssm_tune.errors import UserError
from ssm_tune.summary import summary

GROUPS = ("model", "task", "method", "data", "tuned")


class _Cells:
    """The cells of this command as Hydra runs them here, one after another; a failed one does not stop the rest.

    Errors are kept and raised after Hydra is through: raised inside, they would print lines of Hydra's own.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.diverged = 0

    def __call__(self, composed: DictConfig) -> None:
        job = HydraConfig.get()
        many = job.mode == RunMode.MULTIRUN
        if many:
            print(f"cell {job.job.num + 1}: {job.job.override_dirname}", file=sys.stderr)
        try:
            self._run(composed)
        except Exception as error:
            self.error = error
            if many:
                print(f"ssm-tune: cell {job.job.num + 1} failed: {_explain(error)}", file=sys.stderr)

    def _run(self, composed: DictConfig) -> None:
        config = checked(composed)
        from ssm_tune.run import run  # torch: not before the configuration is known to be good

        finished = run(config)
        if not finished.fresh:
            print("this cell is done already (force=true runs it again)", file=sys.stderr)
        if finished.record["status"] == "diverged":
            self.diverged += 1
            print(f"ssm-tune: the run diverged: {'; '.join(finished.record['notes'])}", file=sys.stderr)
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
        if cells.error is not None:
            raise cells.error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error)) from error
    finally:
        sys.argv = before
    return 1 if cells.diverged else 0


def _explain(error: BaseException) -> str:
    """One line for an error of Hydra or OmegaConf, with the nearest valid names."""
    text = str(error)
    cause: BaseException | None = error
    while cause is not None:
        text += "\n" + str(cause)
        cause = cause.__cause__
    if isinstance(error, UserError):
        return str(error)
    for pattern, explain in _EXPLANATIONS:
        found = re.search(pattern, text)
        if found:
            return explain(*found.groups())
    return " ".join(str(error).split())


def _unknown_choice(group: str, name: str) -> str:
    return f"there is no {group} {name!r}: {nearest(name, names(group))}"


def _missing_choice(group: str) -> str:
    return f"{group} is not given: add {group}=NAME, one of {', '.join(names(group))}"


def _unknown_key(key: str) -> str:
    return f"there is no setting {key!r}: {nearest(key, _known_keys())}"


def _unknown_override(key: str) -> str:
    return _unknown_key(key.lstrip("+~"))


def _wrong_value(value: str, wanted: str, key: str) -> str:
    kinds = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
    return f"{key} must be {kinds.get(wanted, wanted)}, got {value!r}"


def _bad_syntax(text: str) -> str:
    return f"cannot read the argument {text!r}: settings are given as key=value (quote values with blanks or commas)"


_EXPLANATIONS: list[tuple[str, Any]] = [
    (r"Could not find '(\w+)/([^'\n]+)'", _unknown_choice),
    (r"You must specify '(\w+)'", _missing_choice),
    (r"Could not override '([^'\n]+)'", _unknown_override),
    (r"Could not append to config\. An item is already at '([^'\n]+)'", lambda key: f"{key} exists: leave out the +"),
    (r"Value '([^'\n]*)' of type '\w+' could not be converted to (\w+)\s+full_key: (\S+)", _wrong_value),
    (r"Value '([^'\n]*)' is not a valid (\w+).*\s+full_key: (\S+)", _wrong_value),
    (r"Key '\w+' (?:is not in struct|not in '\w+')\s+full_key: (\S+)", _unknown_key),
    (r"Error parsing override '([^'\n]*)'", _bad_syntax),
    (r"[Mm]issing mandatory value: (\S+)", lambda key: f"{key} is not given: add {key}=..."),
]


def _known_keys() -> list[str]:
    """Every setting of the shared schema and of all choices, dotted."""
    from ssm_tune.config import Config

    keys: set[str] = set()

    def collect(node: Any, prefix: str) -> None:
        for key, value in node.items():
            path = f"{prefix}{key}"
            if isinstance(value, dict):
                collect(value, path + ".")
            else:
                keys.add(path)

    schema = OmegaConf.to_container(OmegaConf.structured(Config))
    collect({key: value for key, value in dict(schema).items() if value != "???"}, "")  # type: ignore[arg-type]
    for group in ("model", "method"):
        for path in (conf_dir() / group).glob("*.yaml"):
            section = OmegaConf.to_container(OmegaConf.load(path))
            assert isinstance(section, dict)
            skipped = ("defaults", "_target_", "name", "published")
            collect({key: value for key, value in section.items() if key not in skipped}, f"{group}.")
    return sorted(keys | set(GROUPS))
