"""The base model's predictions: kept with a digest, and made again where they are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.damaged_files import NASTY, damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssm_tune.experiment.base_model import base_model_path, base_model_predictions

OUTPUTS = ["a", "ü\u2028", ""]


def experiment(folder: Path) -> Any:
    """As much of an experiment as names its predictions."""
    return SimpleNamespace(
        config=SimpleNamespace(output_dir=str(folder)),
        task=SimpleNamespace(name="task", version=1),
        roles=SimpleNamespace(report="val"),
        dataset=SimpleNamespace(splits={"val": OUTPUTS}),
        protocol="paper",
        decoding={"num_beams": 1},
        hashes={"data": "d", "model": "m", "tokenizer": "t"},
        backend={"device": "cpu", "scan": "reference", "dtype": "float32"},
    )


def predictions(folder: Path, said: list[str]) -> tuple[list[str], bool]:
    return base_model_predictions(experiment(folder), lambda: list(OUTPUTS), lambda: None, said.append)


def test_they_are_made_once(tmp_path: Path) -> None:
    assert predictions(tmp_path, []) == (OUTPUTS, False)
    assert predictions(tmp_path, []) == (OUTPUTS, True)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_ones_are_made_again(tmp_path: Path, data: st.DataObject) -> None:
    said: list[str] = []
    predictions(tmp_path, said)
    path = base_model_path(experiment(tmp_path))
    content = path.read_bytes()
    path.write_bytes(data.draw(st.sampled_from(NASTY) | damaged(content)))
    outputs, kept = predictions(tmp_path, said)
    assert outputs == OUTPUTS
    assert kept or (len(said) == 1 and "damaged" in said[0])  # kept: the damage was to blanks alone
    assert predictions(tmp_path, said) == (OUTPUTS, True)


@pytest.mark.parametrize("change", [{"outputs": ["a", "b", "c"]}, {"outputs": [1, 2, 3]}, {"sha256": None}])
def test_changed_outputs_are_noticed(change: dict[str, Any], tmp_path: Path) -> None:
    said: list[str] = []
    predictions(tmp_path, said)
    path = base_model_path(experiment(tmp_path))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert predictions(tmp_path, said) == (OUTPUTS, False)
    assert len(said) == 1
