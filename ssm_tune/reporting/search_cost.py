"""What the search for a run's learning rate cost, as the tuned file says that the run took it from."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from ssm_tune.config.groups import conf_dir
from ssm_tune.config.tuned import TunedFile, read_tuned
from ssm_tune.config.variants import of_cell
from ssm_tune.records.schema import Record
from ssm_tune.utils.errors import UserError


def search_cost(record: Record) -> tuple[int, float | None] | None:
    """Trials and their seconds (None in files that older versions wrote); None where no file that a search wrote into
    conf/tuned has the run's rate."""
    run, rate = record["cell"], record["learning_rate"]
    file = _tuned_file(rate["source"])
    method = {"name": run["method"], **run["method_options"]}
    try:
        place = (run["model"], run["task"], method)
        if of_cell(file.rates, *place) != rate["value"]:
            return None
        origin: Any = of_cell(file.trials, *place)
    except UserError:  # a method that is none here
        return None
    if not isinstance(origin, dict) or not isinstance(origin.get("tried"), list):
        return None
    trials, seconds = origin.get("trials", len(origin["tried"])), origin.get("seconds")
    return trials, seconds if isinstance(seconds, int | float) else None


@cache
def _tuned_file(source: str) -> TunedFile:
    """The file of conf/tuned that a record names; empty where a search wrote none of that name."""
    if not re.fullmatch(r"[\w-]+", source):
        return TunedFile()
    try:
        return read_tuned(conf_dir() / "tuned" / f"{source}.yaml")
    except UserError:
        return TunedFile()
