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

from ssm_tune.config.schema import SplitConfig
from ssm_tune.experiment.base_model import base_model_path, base_model_predictions
from ssm_tune.experiment.base_scores import keep_scores, read_scores
from ssm_tune.generation.predict import Outputs
from ssm_tune.tasks.base import Scored

TEXTS = ["a", "ü\u2028", ""]
OUTPUTS = Outputs(TEXTS)
LABELLED = Outputs(TEXTS, ["0", "1", "0"])


def experiment(folder: Path, mode: str = "generate", limit: int | None = None) -> Any:
    """As much of an experiment as names its predictions."""
    return SimpleNamespace(
        config=SimpleNamespace(output_dir=str(folder), splits=SplitConfig(limit=limit)),
        task=SimpleNamespace(
            name="task", version=1, mode=mode, signatures=lambda examples: {"metric": f"1.0 | n={len(examples)}"}
        ),
        roles=SimpleNamespace(report="val"),
        dataset=SimpleNamespace(splits={"val": TEXTS}),
        protocol="paper",
        decoding={"num_beams": 1},
        hashes={"data": "d", "model": "m", "tokenizer": "t"},
        backend={"device": "cpu", "scan": "reference", "dtype": "float32"},
    )


def predictions(folder: Path, said: list[str], outputs: Outputs = OUTPUTS) -> tuple[Outputs, bool]:
    mode = "generate" if outputs.likeliest is None else "classify"
    return base_model_predictions(experiment(folder, mode), lambda: outputs, lambda: None, said.append)


@pytest.mark.parametrize("outputs", [OUTPUTS, LABELLED])
def test_they_are_made_once(outputs: Outputs, tmp_path: Path) -> None:
    assert predictions(tmp_path, [], outputs) == (outputs, False)
    assert predictions(tmp_path, [], outputs) == (outputs, True)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_ones_are_made_again(tmp_path: Path, data: st.DataObject) -> None:
    said: list[str] = []
    predictions(tmp_path, said, LABELLED)
    path = base_model_path(experiment(tmp_path, "classify"))
    content = path.read_bytes()
    path.write_bytes(data.draw(st.sampled_from(NASTY) | damaged(content)))
    outputs, kept = predictions(tmp_path, said, LABELLED)
    assert outputs == LABELLED
    assert kept or (len(said) == 1 and "damaged" in said[0])  # kept: the damage was to blanks alone
    assert predictions(tmp_path, said, LABELLED) == (LABELLED, True)


CHANGES: list[dict[str, Any]] = [
    {"outputs": ["a", "b", "c"]},
    {"outputs": [1, 2, 3]},
    {"sha256": None},
    {"likeliest": ["1", "1", "0"]},
    {"likeliest": None},
]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_outputs_are_noticed(change: dict[str, Any], tmp_path: Path) -> None:
    said: list[str] = []
    predictions(tmp_path, said, LABELLED)
    path = base_model_path(experiment(tmp_path, "classify"))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert predictions(tmp_path, said, LABELLED) == (LABELLED, False)
    assert len(said) == 1


SCORED = Scored({"metric": 1 / 3, "other": 0.0}, [{"metric": 0.1}, {"metric": 1e-300}, {"metric": 0.0}])


def test_scores_are_kept_for_the_same_outputs_data_and_metrics(tmp_path: Path) -> None:
    one = experiment(tmp_path)
    assert read_scores(one, OUTPUTS) is None
    keep_scores(one, OUTPUTS, SCORED)
    assert read_scores(one, OUTPUTS) == SCORED
    assert read_scores(one, Outputs([*TEXTS[:2], "b"])) is None
    assert read_scores(one, LABELLED) is None
    one.hashes["data"] = "other"
    assert read_scores(one, OUTPUTS) is None
    one.hashes["data"] = "d"
    one.task.signatures = lambda examples: {"metric": "1.1"}
    assert read_scores(one, OUTPUTS) is None
    assert predictions(tmp_path, []) == (OUTPUTS, False)  # a file of its own


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_scores_are_not_used(tmp_path: Path, data: st.DataObject) -> None:
    one = experiment(tmp_path)
    keep_scores(one, OUTPUTS, SCORED)
    (path,) = (tmp_path / "frozen").glob("*.scores.json")
    path.write_bytes(data.draw(st.sampled_from(NASTY) | damaged(path.read_bytes())))
    assert read_scores(one, OUTPUTS) in (None, SCORED)


def test_scores_that_json_cannot_hold_are_not_kept(tmp_path: Path) -> None:
    keep_scores(experiment(tmp_path), OUTPUTS, Scored({"metric": float("nan")}, []))
    assert read_scores(experiment(tmp_path), OUTPUTS) is None


def test_a_smoke_runs_are_kept_apart(tmp_path: Path) -> None:
    paths = [base_model_path(experiment(tmp_path, limit=limit)) for limit in (None, 2, 3)]
    assert len(set(paths)) == 3
