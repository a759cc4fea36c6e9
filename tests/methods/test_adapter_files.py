"""An adapter's files are data: damaged ones, and ones made up, are refused in one line, whoever reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers.damaged_files import NASTY, damaged
from helpers.small_models import small_model
from hypothesis import given, settings
from hypothesis import strategies as st

import ssm_tune
from ssm_tune.cli import main
from ssm_tune.config.groups import method_section
from ssm_tune.methods.adapter import attach
from ssm_tune.methods.adapter_files import DESCRIPTION, WEIGHTS, read_adapter_files
from ssm_tune.methods.base import load_method
from ssm_tune.models.pretrained import from_pretrained
from ssm_tune.utils.errors import UserError

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of a small model, as ``Adapter.save`` writes it."""
    folder = tmp_path_factory.mktemp("adapter")
    adapter = attach(small_model(), load_method(method_section("lora", {"rank": 2})))
    torch.nn.init.normal_(next(iter(adapter.parameters())))
    adapter.save(folder, {"task": "samsum", "decode": {"num_beams": 2}, "model": {"path": "here"}})
    return folder


def copied(made: Path, folder: Path, **contents: bytes) -> Path:
    """The adapter in ``folder``, with other contents of some files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, key in ((WEIGHTS, "weights"), (DESCRIPTION, "description")):
        (folder / name).write_bytes(contents.get(key, (made / name).read_bytes()))
    return folder


def refused(folder: Path) -> str:
    """The one line with which the API refuses it."""
    with pytest.raises(UserError) as caught:
        ssm_tune.load_adapter(small_model(), folder)
    message = str(caught.value)
    assert "\x1b" not in message
    assert len(message) < 1000
    return message


def edited(made: Path, folder: Path, change: Change, weights: bytes | None = None) -> Path:
    """An old adapter, without a digest, whose description somebody has changed."""
    description = json.loads((made / DESCRIPTION).read_text())
    del description["digest"]
    change(description)
    content = json.dumps(description).encode()
    return copied(made, folder, description=content, **({} if weights is None else {"weights": weights}))


@given(st.data())
def test_damaged_weights_are_refused(made: Path, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    weights = data.draw(st.one_of(damaged((made / WEIGHTS).read_bytes()), st.sampled_from(NASTY)))
    with pytest.raises(UserError, match="damaged"):
        read_adapter_files(copied(made, tmp_path_factory.mktemp("damaged"), weights=weights))


@given(st.data())
def test_a_damaged_description_is_refused_or_means_the_same(
    made: Path, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    before = (made / DESCRIPTION).read_bytes()
    content = data.draw(st.one_of(damaged(before), st.sampled_from(NASTY)))
    folder = copied(made, tmp_path_factory.mktemp("damaged"), description=content)
    try:
        found = read_adapter_files(folder)
    except UserError:
        return
    plain = {key: value for key, value in found.description.items() if key not in ("digest", "model")}
    if found.checked:  # blanks, or the model's place
        assert plain == {k: v for k, v in json.loads(before).items() if k not in ("digest", "model")}


@settings(max_examples=40)
@given(st.data())
def test_old_adapters_that_are_damaged_never_crash(
    made: Path, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    """Without a digest damage may pass, but an error is a UserError."""
    weights = data.draw(st.one_of(damaged((made / WEIGHTS).read_bytes()), st.sampled_from(NASTY)))
    folder = edited(made, tmp_path_factory.mktemp("damaged"), lambda _: None, weights)
    with suppress(UserError):
        ssm_tune.load_adapter(small_model(), folder)


def test_an_old_adapter_is_read_with_a_line_that_says_so(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ssm_tune.load_adapter(small_model(), edited(made, tmp_path, lambda _: None))
    assert "unchecked" in caplog.text
    caplog.clear()
    ssm_tune.load_adapter(small_model(), made)
    assert not caplog.text


def test_the_models_place_may_change(made: Path, tmp_path: Path) -> None:
    description = json.loads((made / DESCRIPTION).read_text())
    description["model"]["path"] = "elsewhere"
    ssm_tune.load_adapter(small_model(), copied(made, tmp_path, description=json.dumps(description).encode()))
    description["method"]["alpha"] *= 2
    assert "damaged" in refused(copied(made, tmp_path, description=json.dumps(description).encode()))


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(method=[]),
        lambda d: d.update(method={}),
        lambda d: d.pop("method"),
        lambda d: d.update(method=deep(500)),
        lambda d: d["method"].update(rank=10**12),
        lambda d: d["method"].update(rank=3),
        lambda d: d["method"].update(rank=1e12),
        lambda d: d["method"].update(rank=[2]),
        lambda d: d["method"].update(targets=[["in_proj"]]),
        lambda d: d["method"].update(targets={"in_proj": 1}),
        lambda d: d["method"].update(alpha=10**400),
        lambda d: d["method"].update(name=["\x1b[31m"], _target_="\x1b[31m.x"),
        lambda d: d["method"].update(name="\x1b[31m", other=1),
        lambda d: d["method"].update(learning_rate=None),
        lambda d: d["method"].update({"": 1}),
    ],
)
def test_made_up_descriptions_are_refused(made: Path, tmp_path: Path, change: Change) -> None:
    refused(edited(made, tmp_path, change))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_tensors_that_are_no_floats_are_refused(made: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = safetensors.torch.load_file(made / WEIGHTS)
    weights = safetensors.torch.save({name: tensor.to(dtype) for name, tensor in tensors.items()})
    assert "floating" in refused(edited(made, tmp_path, lambda _: None, weights))


def test_every_command_refuses_a_damaged_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = ssm_tune.attach(from_pretrained("tiny"), "state_offset_y")
    model = {"name": "tiny", "source": "embedded", "path": "tiny", "revision": None, "tokenizer": "tiny"}
    model |= {"tokenizer_revision": None, "dtype": "float32", "hash": from_pretrained("tiny").checkpoint_hash or ""}
    adapter.save(tmp_path / "adapter", {"model": model, "decode": {"max_new_tokens": 1, "num_beams": 1}})
    generate = ["generate", "--adapter", str(tmp_path), "--prompt", "x"]
    assert main(generate) == 0
    file = tmp_path / "adapter" / WEIGHTS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    capsys.readouterr()
    for command in (
        generate,
        ["export", str(tmp_path), "--to", str(tmp_path / "to")],
        ["export", str(tmp_path), "--merge", "--to", str(tmp_path / "to")],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "damaged" in error
        assert error.count("\n") == 1
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(model=[]),
        lambda d: d["model"].update(path=["tiny"]),
        lambda d: d["model"].update(source="random"),
        lambda d: d["model"].update(dtype=[]),
        lambda d: d["model"].update(dtype="float7"),
        lambda d: d["model"].update(other=1),
        lambda d: d["model"].update(tokenizer=7),
        lambda d: d["model"].update(tokenizer_revision=[]),
        lambda d: d["model"].update(hash="0"),
        lambda d: d.update(decode=[]),
        lambda d: d["decode"].update(num_beams=[]),
        lambda d: d["decode"].update(other=1),
        lambda d: d["decode"].update(num_beams=10**9),
    ],
)
def test_made_up_models_and_settings_are_refused(
    tmp_path: Path, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = ssm_tune.attach(from_pretrained("tiny"), "state_offset_y")
    model = {"name": "tiny", "source": "embedded", "path": "tiny", "revision": None, "tokenizer": "tiny"}
    model |= {"tokenizer_revision": None, "dtype": "float32", "hash": from_pretrained("tiny").checkpoint_hash or ""}
    adapter.save(tmp_path, {"model": model, "decode": {"max_new_tokens": 1, "num_beams": 1}})
    edited(tmp_path, tmp_path, change)
    assert main(["generate", "--adapter", str(tmp_path), "--prompt", "x"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("ssm-tune: ")
