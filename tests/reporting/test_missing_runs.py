"""A table's gaps: the lines that fill them ask for exactly the cells that the sweep of its name runs."""

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
    cells = read_sweep(settings).runs
    return [json.dumps(dataclasses.asdict(composer.config(cell.overrides)), sort_keys=True) for cell in cells]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*table_names()} & {*names("sweep")}))
def test_a_table_plans_what_the_sweep_of_its_name_runs(name: str) -> None:
    composer, planned = Composer(), []
    for line in fill(load_table_spec(name), []).missing:
        program, *settings = shlex.split(line)
        assert program == "ssm-tune"
        assert (settings[0] == "-m") == ("," in line or "+sweep=" in line)
        planned += composed(composer, settings[settings[0] == "-m" :])
    assert len(set(planned)) == len(planned)
    assert sorted(planned) == sorted(composed(composer, [f"+sweep={name}"]))


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
