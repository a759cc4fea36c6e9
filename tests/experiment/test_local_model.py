"""A checkpoint folder of one's own: what is amiss with it, and that one name stands for one checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ssm_tune
from ssm_tune.cli import main
from ssm_tune.config.compose import compose
from ssm_tune.config.schema import DataConfig
from ssm_tune.records.run_id import request_hash
from ssm_tune.sweeps.status import Results
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import read_jsonl

QUICK = ["method=state_offset_y", "task=glue_rte", "data=sample", "train.max_steps=2", "frozen=false"]
SMALL = ["splits.selection_examples=4"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded model as a folder somewhere."""
    made = tmp_path / "checkpoint"
    shutil.copytree(Path(ssm_tune.__file__).parent / "models" / "tiny", made)
    return made


def cell(folder: Path, *settings: str) -> list[str]:
    return [*QUICK, *SMALL, "model=local", f"model.path={folder}", f"output_dir={folder.parent / 'results'}", *settings]


def change_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, folder / "model.safetensors")


def change_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "what"), [(change_weights, "checkpoint"), (change_tokenizer, "tokenizer")], ids=["weights", "tokenizer"]
)
def test_a_checkpoint_that_changed_between_two_runs_is_refused_by_name(
    change: object, what: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(change)
    assert main(cell(folder, "model.name=mine")) == 0
    change(folder)
    capsys.readouterr()
    assert main(["-m", *cell(folder, "model.name=mine", "seed=1,2")]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if "has changed" in line]
    assert len(err) == 2
    assert f"the {what} of mine has changed: " in err[0]
    assert "model.name=NAME" in err[0]
    assert main(cell(folder, "model.name=other")) == 0
    trial = ["search", *cell(folder, "model.name=mine", "grid.learning_rate=1e-3"), "--to", str(folder / "t.yaml")]
    trial.remove("frozen=false")
    assert main(trial) == 2
    assert f"the {what} of mine has changed: " in capsys.readouterr().err


def test_a_named_checkpoint_is_the_same_wherever_it_lies(folder: Path) -> None:
    assert main(cell(folder, "model.name=mine")) == 0
    results = Results(folder.parent / "results")
    elsewhere = folder.parent / "moved"
    assert results.state(compose(cell(elsewhere, "model.name=mine"))).status == "done"
    assert results.state(compose(cell(elsewhere, "model.name=other"))).status == "missing"
    assert results.state(compose(cell(elsewhere))).status == "missing"
    assert results.state(compose(cell(folder, "model.name=mine", "train.evaluate_every=2"))).status == "missing"
    assert results.state(compose([*cell(folder, "model.name=mine"), "splits.selection_examples=5"])).status == "missing"


@pytest.mark.parametrize(
    ("amiss", "said"),
    [("no tokenizer", "holds no tokenizer.json"), ("a larger tokenizer", "the tokenizer has ids up to"),
     ("no folder", "no such folder")],
)  # fmt: skip
def test_what_is_amiss_with_a_folder_is_one_line(
    amiss: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if amiss == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif amiss == "no folder":
        shutil.rmtree(folder)
    else:
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
        rows = config["vocab_size"]
        for name, tensor in tensors.items():
            if tensor.shape[0] >= rows:
                tensors[name] = tensor[: rows // 2].clone()
        path.write_text(json.dumps(config | {"vocab_size": rows // 2}), encoding="utf-8")
        save_file(tensors, folder / "model.safetensors")
        assert any(tensor.shape[0] == rows // 2 for tensor in tensors.values() if isinstance(tensor, torch.Tensor))
    assert main(cell(folder)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[-1]
    assert lines[-1].startswith("ssm-tune: ")


def test_fewer_evaluations_and_fewer_examples_are_of_the_selection_split_alone(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"it is {number}", "label": ("even", "odd")[number % 2]}) for number in range(60)]
    (tmp_path / "numbers.jsonl").write_text("\n".join(lines))
    own = ["method=state_offset_y", "task=classify", "model=tiny", f"data.path={tmp_path / 'numbers.jsonl'}",
           "train.epochs=4", "train.batch_size=24", "frozen=false", f"output_dir={tmp_path / 'results'}"]  # fmt: skip
    assert main([*own, "train.evaluate_every=3", "splits.selection_examples=4"]) == 0
    (path,) = (tmp_path / "results" / "runs").rglob("record.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert [epoch["epoch"] for epoch in record["metrics"]["epochs"]] == [3, 4]
    assert record["config"]["splits"] == {"selection": "val", "report": "test", "selection_examples": 4}
    assert len(read_jsonl(path.parent / "predictions.jsonl.gz")) == 6  # all of the reported split
    assert main(own) == 0
    (other,) = set((tmp_path / "results" / "runs").rglob("record.json")) - {path}
    record = json.loads(other.read_text(encoding="utf-8"))
    assert [epoch["epoch"] for epoch in record["metrics"]["epochs"]] == [1, 2, 3, 4]
    assert "evaluate_every" not in record["config"]["train"]  # as in records older than the settings
    assert record["config"]["splits"] == {"selection": "val", "report": "test"}


def test_a_root_is_put_before_a_path() -> None:
    data = DataConfig(source="local", path="glue", root="/data")
    assert (data.path, data.root) == ("/data/glue", None)
    for wrong in ({"source": "hub", "root": "/data"}, {"source": "local", "root": "/data"}):
        with pytest.raises(UserError, match=r"data\.(root|path)"):
            DataConfig(**wrong)
    cell = ["method=lora", "task=glue_rte", "data=sample", "model=local", "model.root=/models"]
    asked = compose([*cell, "model.path=mamba-25m"])
    assert asked.model["path"] == "/models/mamba-25m"
    assert request_hash(asked) == request_hash(compose([*cell[:-1], "model.path=/models/mamba-25m"]))
    with pytest.raises(UserError, match=r"model\.root is only read with model=local model\.path=DIR"):
        compose(cell)


@pytest.mark.parametrize("words", [[], ["-m", "seed=1,2"]])
def test_a_folder_that_is_not_named_is_told_once_before_anything_runs(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *words,
        *QUICK,
        *(["hydra/launcher=local"] * bool(words)),
        "model=local",
        "model.name=mine",
        f"output_dir={tmp_path / 'results'}",
    ]
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "ssm-tune: model=local needs the checkpoint's folder: add model.path=DIR"
    )
    assert not list(tmp_path.rglob("*.log"))  # no worker was started
