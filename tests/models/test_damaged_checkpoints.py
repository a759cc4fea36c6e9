"""Checkpoints and tokenizers are data: damaged ones, and ones made up, are refused in one line, in bounded memory."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.damaged_files import NASTY, damaged
from helpers.small_models import small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_tune.models.pretrained import load_checkpoint, save_pretrained
from ssm_tune.models.source import EMBEDDED
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.utils.errors import UserError

TOKENIZER = (EMBEDDED / "tiny" / "tokenizer.json").read_bytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small model's config.json, model.safetensors and, with the same tensors, pytorch_model.bin."""
    folder = tmp_path_factory.mktemp("whole")
    save_pretrained(small_model(), folder)
    _, tensors = load_checkpoint(folder)
    torch.save(tensors, folder / "pytorch_model.bin")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def written(folder: Path, files: dict[str, bytes], weights: str = "model.safetensors") -> Path:
    """A checkpoint with one kind of weights."""
    for name in ("config.json", weights):
        (folder / name).write_bytes(files[name])
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert len(message) < 1000
    assert message.isprintable()
    return message


@settings(max_examples=60)
@given(st.data())
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin"])
def test_damaged_files_never_crash(
    name: str, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    """Damage within the numbers of a tensor cannot be seen; everything else is a UserError."""
    content = data.draw(st.one_of(damaged(files[name]), st.sampled_from(NASTY)))
    weights = "model.safetensors" if name == "config.json" else name
    folder = written(tmp_path_factory.mktemp("damaged"), files | {name: content}, weights)
    with suppress(UserError):
        load_checkpoint(folder)


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_tokenizer_never_crashes(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    file = tmp_path_factory.mktemp("damaged") / "tokenizer.json"
    file.write_bytes(data.draw(st.one_of(damaged(TOKENIZER), st.sampled_from(NASTY))))
    with suppress(UserError):
        tokenizer = Tokenizer(file)
        tokenizer.decode(tokenizer.encode("Anna: Hi!"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_layer": 10_000}, "missing"),
        ({"n_layer": 10**300}, "n_layer"),
        ({"d_model": 999_999}, "shape"),
        ({"vocab_size": 999_999, "pad_vocab_size_multiple": 999_999}, "shape"),
        ({"ssm_cfg": [[[[]]]]}, "ssm_cfg"),
        ({"d_model": "\x1b[31m" * 1000}, "d_model"),
        ({"\x1b[31m\n": 1}, "not known"),
        ({"d_model": [[1]] * 10_000}, "d_model"),
        ({"norm_epsilon": float("nan")}, "norm_epsilon"),
    ],
)
def test_sizes_that_are_made_up_are_refused(
    change: dict[str, Any], said: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    config = json.loads(files["config.json"]) | change
    assert said in refused(written(tmp_path, files | {"config.json": json.dumps(config).encode()}))


def changed(files: dict[str, bytes], folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The checkpoint as a .bin whose tensors somebody has changed."""
    _, tensors = load_checkpoint(written(folder, files))
    (folder / "model.safetensors").unlink()
    content: dict[str, Any] = dict(tensors)
    change(content)
    torch.save(content, folder / "pytorch_model.bin")
    return folder


EMBEDDING = "backbone.embedding.weight"


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({EMBEDDING: torch.zeros(1, 1).expand(64, 16)}),
        lambda t: t.update({EMBEDDING: torch.zeros(1).expand(10**6, 10**6)}),
        lambda t: t.update({EMBEDDING: torch.zeros(64, 16, dtype=torch.int32)}),
        lambda t: t.update({EMBEDDING: torch.zeros(64, 16).to_sparse()}),
        lambda t: t.update({EMBEDDING: torch.zeros(64, 16, device="meta")}),
        lambda t: t.update({EMBEDDING: [1, 2]}),
        lambda t: t.update({EMBEDDING: torch.zeros(64, 16, dtype=torch.complex64)}),
        lambda t: t.update({"\x1b[31m\n": torch.zeros(1)}),
        lambda t: t.update({("backbone", 1): torch.zeros(1)}),
        lambda t: t.update({f"backbone.layers.{n}.mixer.D": torch.zeros(1) for n in range(9, 99)}),
    ],
    ids=["repeated", "terabytes", "integers", "sparse", "meta", "list", "complex", "escape", "tuple", "layers"],
)
def test_tensors_that_are_made_up_are_refused(
    change: Callable[[dict[str, Any]], object], files: dict[str, bytes], tmp_path: Path
) -> None:
    refused(changed(files, tmp_path, change))


def test_compressed_weights_are_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    """A file of kilobytes that unpacks to as many gigabytes as it likes."""
    folder = changed(files, tmp_path, lambda tensors: tensors.update({EMBEDDING: torch.zeros(64, 16)}))
    file = folder / "pytorch_model.bin"
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert "compressed" in refused(folder)


def test_a_tokenizer_with_too_many_ids_is_refused(tmp_path: Path) -> None:
    content = json.loads(TOKENIZER)
    content["model"]["vocab"]["far"] = 2**31
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="ids up to"):
        Tokenizer(tmp_path / "tokenizer.json")
