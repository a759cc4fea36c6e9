"""wandb is fed from a run's own rows and can never fail it; a real offline run leaves its folder."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssm_tune.cli import main
from ssm_tune.experiment import metric_logger as module
from ssm_tune.experiment.metric_logger import WandbLogger, mode_here
from ssm_tune.records.record import read_record
from ssm_tune.utils.files import read_jsonl

CELL = ["method=state_offset_y", "task=samsum", "model=tiny", "data=sample", "frozen=false",
        "train.max_steps=3", "decode.num_beams=1", "decode.max_new_tokens=2"]  # fmt: skip
POINTS = ["init", "log", "update", "finish"]


class Fake:
    """wandb's part that is used; raises at ``broken``, and keeps what it is told."""

    def __init__(self, broken: str | None = None, at: int = 0) -> None:
        self.broken, self.step = broken, at
        self.summary = SimpleNamespace(update=lambda values: self._do("update", values))
        self.calls: list[tuple[str, Any]] = []

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def _do(self, what: str, told: Any) -> None:
        self.calls.append((what, told))
        if what == self.broken:
            raise RuntimeError(f"{what} is broken\nand more")

    def init(self, **options: Any) -> Fake:
        self._do("init", options)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self._do("log", (step, values))

    def finish(self, exit_code: int) -> None:
        self._do("finish", exit_code)

    def told(self, what: str) -> list[Any]:
        return [told for name, told in self.calls if name == what]


def run(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[Path, str]:
    assert main([*CELL, *more]) == 0
    out, err = capsys.readouterr()
    return Path(out.strip().splitlines()[-1].removeprefix("record: ")), err


@pytest.mark.slow
def test_wandb_gets_the_rows_of_the_run_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, _ = run(capsys, f"output_dir={tmp_path / 'a'}")
    fake = Fake()
    monkeypatch.setattr(module, "require_wandb", lambda: fake)
    monkeypatch.setattr("ssm_tune.experiment.run.require_wandb", lambda: fake)
    monkeypatch.setenv("WANDB_MODE", "offline")
    path, err = run(capsys, f"output_dir={tmp_path / 'b'}", "logger=wandb")
    record = read_record(path)
    assert path.parent.name == plain.parent.name  # the logger is no part of the cell's key
    assert record["metrics"] == read_record(plain)["metrics"]
    steps = read_jsonl(path.parent / "steps.jsonl.gz")
    logged = [(step, values) for step, values in fake.told("log") if "train/loss" in values]
    assert [(step, values["train/loss"]) for step, values in logged] == [(row["step"], row["loss"]) for row in steps]
    (init,) = fake.told("init")
    assert init["id"] == record["cell_hash"][:32]  # type: ignore[typeddict-item]
    assert init["dir"] == str(tmp_path / "b")
    best = record["metrics"]["best"]
    assert best is not None
    assert fake.told("update")[0]["best/rougeL"] == best["report"]["rougeL"]
    assert fake.told("finish") == [0]
    assert "warning" not in err


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_wandb_raising_is_one_warning(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake(point)
    monkeypatch.setattr(module, "require_wandb", lambda: fake)
    monkeypatch.setattr("ssm_tune.experiment.run.require_wandb", lambda: fake)
    monkeypatch.setenv("WANDB_MODE", "offline")
    path, err = run(capsys, f"output_dir={tmp_path}", "logger=wandb")
    assert read_record(path)["status"] == "completed"
    assert err.count("warning: wandb failed") == 1
    assert f"wandb failed (RuntimeError: {point} is broken)" in err
    assert len(fake.told(point)) == 1


def test_a_missing_package_is_told_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main([*CELL, "logger=wandb", f"output_dir={tmp_path / 'new'}"]) == 2
    assert "logger=wandb needs the package wandb" in capsys.readouterr().err
    assert not [*(tmp_path / "new").rglob("record.json"), *(tmp_path / "new").rglob("adapter*")]
    assert main([*CELL, "logger=tensorboard"]) == 2
    assert "logger must be one of none, wandb" in capsys.readouterr().err


def test_a_folder_called_wandb_is_not_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())
    with pytest.raises(module.UserError, match="needs the package wandb"):
        module.require_wandb()


def test_a_resumed_run_keeps_its_id_and_tells_what_wandb_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    steps = [{"step": n, "epoch": 1, "loss": 1.0 / n} for n in (1, 2, 3)]
    epochs = [{"epoch": 1, "step": 2, "selection": {"rougeL": 0.5}}]
    for mode, at, expected in (("offline", 0, [1, 2, 2, 3, 4]), ("online", 3, [3, 4])):
        fake = Fake(at=at)
        monkeypatch.setenv("WANDB_MODE", mode)
        one = WandbLogger(fake, tmp_path, "k" * 64, "name", {}, lambda line: None)
        one.start(steps, epochs)
        one.log_step({"step": 4, "epoch": 2, "loss": 0.1})
        one.finish(None)
        assert [step for step, _ in fake.told("log")] == expected
        (init,) = fake.told("init")
        assert (init["id"], init["resume"]) == ("k" * 32, "allow" if mode == "online" else None)
        assert fake.told("finish") == [1]


def test_offline_without_a_key_or_an_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    answers: list[str] = []
    monkeypatch.setattr(module, "_answers", lambda address: bool(answers.append(address)) or True)
    assert mode_here() == "offline"
    assert not answers  # without a key nobody is asked
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password x\n")
    assert mode_here() == "online"
    monkeypatch.undo()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert mode_here() == "offline"


@pytest.mark.slow
def test_a_real_offline_run_leaves_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    path, err = run(capsys, f"output_dir={tmp_path}", "logger=wandb")
    key = read_record(path)["cell_hash"]  # type: ignore[typeddict-item]
    assert "warning" not in err
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert folder.name.endswith(key[:32])
    (content,) = folder.glob("*.wandb")
    assert b"train/loss" in content.read_bytes()
    assert b"best/rougeL" in content.read_bytes()


def test_a_long_name_keeps_its_hash_and_fits_wandb() -> None:
    from ssm_tune.experiment.metric_logger import shortened

    long = f"{'x' * 120}-0123abcd"
    assert len(long) == 129
    assert len(shortened(long)) == 128
    assert shortened(long).endswith("-0123abcd")
    assert shortened("short-0123abcd") == "short-0123abcd"
