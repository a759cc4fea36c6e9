"""Damaged records, trials and tuned files: each is read, or refused in one line; none ends a table in a crash."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers.damaged_files import NASTY, damaged
from helpers.make_records import make_record
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_tune.config.tuned import TunedFile, read_tuned, write_tuned
from ssm_tune.records.record import find_records, read_record
from ssm_tune.records.trial import read_trial
from ssm_tune.reporting.export_formats import latex, records_csv, table_csv
from ssm_tune.reporting.planned_table import fill
from ssm_tune.reporting.render import markdown, text_table
from ssm_tune.reporting.run_tables import tables_from_records
from ssm_tune.reporting.table_spec import parse_table_spec
from ssm_tune.utils.errors import UserError

VALUES = (None, True, 0, -1, 10**400, 1e300, "", "x" * 50, "\x1b[0m\n", [], [[]], {}, {"a": {}}, [1, "b"])
PLAN = {"model": "tiny", "data": "sample", "columns": [{"task": "samsum", "show": ["rougeL", "seconds", "memory"]}]}


def a_trial() -> dict[str, Any]:
    record = make_record()
    best = {name: record["metrics"]["best"][name] for name in ("epoch", "step", "selection")}
    kept = {name: value for name, value in record.items() if name not in ("schema", "metrics", "headline")}
    return {**kept, "trial": 1, "best": best, "epochs": record["metrics"]["epochs"], "examples": 9}


def a_tuned_file(folder: Path) -> bytes:
    path = folder / "whole.yaml"
    rates, about = {"tiny": {"samsum": {"lora": 1e-3}}}, {"tiny": {"samsum": {"lora": {"edge": False}}}}
    options = {"tiny": {"samsum": {"lora": {"rank": 4}}}}
    write_tuned(path, TunedFile(rates, options, about, "float32"))
    return path.read_bytes()


READERS: dict[str, tuple[Callable[[Path], bytes], Callable[[Path], Any]]] = {
    "record.json": (lambda folder: json.dumps(make_record(), indent=2).encode(), read_record),
    "trial.json": (lambda folder: json.dumps(a_trial(), indent=2).encode(), read_trial),
    "tuned.yaml": (a_tuned_file, read_tuned),
}


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150)
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    make, read = READERS[name]
    path = folder / name
    path.write_bytes(data.draw(st.one_of(damaged(make(folder)), st.sampled_from(NASTY))))
    with suppress(UserError):
        read(path)


@pytest.mark.parametrize("name", READERS)
def test_a_whole_file_is_read_and_a_folder_in_its_place_refused(name: str, tmp_path: Path) -> None:
    make, read = READERS[name]
    (tmp_path / name).write_bytes(make(tmp_path))
    assert read(tmp_path / name)
    (tmp_path / "folder" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=name.partition(".")[0]):
        read(tmp_path / "folder" / name)


@st.composite
def changed(draw: st.DrawFn) -> Any:
    """A record with one of its values, at any depth, changed or taken out."""
    record: Any = make_record(hardware={"gpu": {"name": "G"}}, git={"commit": "c", "dirty": False})
    place = record
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        if draw(st.integers(0, 4)) == 0:
            del place[key]
        else:
            place[key] = draw(st.sampled_from(VALUES))
        return record


@pytest.mark.slow
@settings(max_examples=400)
@given(changed())
def test_what_is_read_can_be_shown(tmp_path_factory: pytest.TempPathFactory, record: Any) -> None:
    results = tmp_path_factory.getbasetemp() / "shown"
    folder = results / "runs" / "samsum" / "one"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_bytes(json.dumps(record).encode())
    found, warnings = find_records(results)
    assert len(found) + len(warnings) == 1
    records = [one for _, one in found] + [make_record(seed=1)]  # type: ignore[list-item]
    records_csv(records)
    for table in (*tables_from_records(records), fill(parse_table_spec("t", PLAN | {"seeds": [1, 42]}), records)):
        text = text_table(table)
        assert markdown(text)
        assert latex(text)
        assert table_csv(table)
