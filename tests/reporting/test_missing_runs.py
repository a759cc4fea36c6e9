"""A table's gaps: the lines that fill them ask for exactly the runs that the sweep of its name runs."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

import pytest
from helpers.make_records import make_record

from ssm_tune.config.compose import Composer
from ssm_tune.config.groups import names
from ssm_tune.reporting.planned_table import fill
from ssm_tune.reporting.table_spec import load_table_spec, parse_table_spec, table_names
from ssm_tune.sweeps.sweep_file import read_sweep


def composed(composer: Composer, settings: list[str]) -> list[str]:
    runs = read_sweep(settings).runs
    return [json.dumps(dataclasses.asdict(composer.config(run.overrides)), sort_keys=True) for run in runs]


def sweeps_of_tables() -> dict[str, list[str]]:
    """The tables that each sweep fills, by its name."""
    found: dict[str, list[str]] = {}
    for name in table_names():
        sweep = load_table_spec(name).sweep or name
        if sweep in names("sweep"):
            found.setdefault(sweep, []).append(name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sweep", sorted(sweeps_of_tables()))
def test_tables_plan_what_their_sweep_runs(sweep: str) -> None:
    composer, planned = Composer(), []
    lines = [line for name in sweeps_of_tables()[sweep] for line in fill(load_table_spec(name), []).missing]
    for line in lines:
        program, *settings = shlex.split(line)
        assert program == "ssm-tune"
        assert (settings[0] == "-m") == ("," in line or "+sweep=" in line)
        planned += composed(composer, settings[settings[0] == "-m" :])
    assert len(set(planned)) == len(planned)
    assert sorted(planned) == sorted(composed(composer, [f"+sweep={sweep}"]))


def test_lines_are_shared_and_leave_out_what_is_there() -> None:
    plan: dict[str, Any] = {
        "seeds": [1, 2], "model": "tiny", "data": "sample", "overrides": {"train.epochs": 1},
        "columns": [{"task": "samsum"}, {"task": "dart"}],
        "rows": {"all": ["lora", {"method": "state_offset", "options": {"rank": 4}}, "bitfit"]},
    }  # fmt: skip
    there = make_record("bitfit", 1, config__train__epochs=1)
    other = make_record("lora", 1, config__train__epochs=2)  # of other settings: it fills nothing
    assert fill(parse_table_spec("t", plan), [there, other]).missing == (
        "ssm-tune -m method=lora task=samsum model=tiny data=sample train.epochs=1 seed=1,2",
        "ssm-tune -m method=lora,bitfit task=dart model=tiny data=sample train.epochs=1 seed=1,2",
        "ssm-tune -m method=state_offset task=samsum,dart method.rank=4 model=tiny data=sample train.epochs=1 seed=1,2",
        "ssm-tune method=bitfit task=samsum model=tiny data=sample train.epochs=1 seed=2",
    )
