"""The doctor finds each thing missing, says what mends it, and never falls over."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssm_tune.cli import main
from ssm_tune.commands import doctor, doctor_inputs
from ssm_tune.commands.doctor import Asked, Finding, examine
from ssm_tune.config.compose import compose
from ssm_tune.config.groups import benchmarks
from ssm_tune.utils.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty machine without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSM_TUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor_inputs, "hub_answers", lambda: False)


def asked(model: str | None = None, task: str | None = None, data: str = "hub") -> Asked:
    return Asked(model, task, data, Path("results"))


def only(check: Any, *of: Any) -> Finding:
    (found,) = check(*of)
    assert isinstance(found, Finding)
    return found


def test_a_healthy_machine_and_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "tiny", "--task", "samsum", "--data", "sample", "--format", "json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert {"Python", "PyTorch", "NVRTC", "results folder", "cache folder", "hub", "SLURM"} <= {
        one["what"] for one in findings
    }
    assert main(["doctor", "--model", "mamba_130m", "--task", "samsum"]) == 1
    out = capsys.readouterr().out
    assert "-> ssm-tune data fetch samsum" in out
    assert "problems: a run would fail" in out
    assert main(["doctor", "--task", "samsumm"]) == 2


def test_torch_missing_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = only(doctor._torch, asked())
    assert (found.what, found.state) == ("PyTorch", "problem")
    assert found.mend
    assert [one.state for one in examine(asked())].count("problem") >= 1  # and the others went on


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "_output", lambda command: "555.42")
    assert "555.42, but PyTorch sees no device" in doctor._torch(asked())[-1].found
    monkeypatch.setattr(doctor, "_output", lambda command: None)
    assert doctor._torch(asked())[-1].state == "note"


def test_an_old_gpu_and_a_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cards = [SimpleNamespace(name="Old", major=7, minor=5), SimpleNamespace(name="New", major=9, minor=0)]
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (1e9, 80e9))
    old, new = [one for one in doctor._torch(asked()) if one.what.startswith("GPU")]
    assert (old.state, new.state, new.mend) == ("note", "note", "nvidia-smi")
    assert "our kernels need 8.0" in old.found
    assert "1 of 80 GB free" in new.found


def test_no_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssm_tune.ops.cuda import compiler

    def missing() -> str:
        raise compiler.KernelError("CUDA kernels need cuda-bindings; install it")

    monkeypatch.setattr(compiler, "nvrtc_version", missing)
    found = only(doctor._nvrtc, asked())
    assert (found.state, found.found) == ("note", "CUDA kernels need cuda-bindings")


def test_folders_that_cannot_be_written_and_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda path, mode: False)
        results, cache = doctor._folders(asked())
        assert (results.state, results.mend) == ("problem", "output_dir=DIR")
        assert (cache.state, cache.mend) == ("note", "export SSM_TUNE_CACHE=DIR")
        assert doctor._folders(asked("mamba_130m"))[1].state == "problem"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=5e8))
    assert [one.state for one in doctor._folders(asked())] == ["ok", "problem", "ok", "problem"]


@pytest.mark.parametrize("name", doctor.OPTIONAL)
def test_a_package_that_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(asked_for: str) -> str:
        if asked_for == name:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor.metadata, "version", version)
    (found,) = [one for one in doctor._packages(asked()) if one.state != "ok"]
    assert (found.what, found.state) == (name, "note")
    assert found.mend.startswith("pip install")


def test_the_hub_matters_only_where_something_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_inputs.inputs(asked("tiny", "samsum", "sample"))[0].state == "note"
    assert {one.state for one in doctor_inputs.inputs(asked("tiny", "samsum"))} == {"problem"}
    hub = tmp_path / "cache" / "hub"
    hub.mkdir(parents=True)
    (hub / "dataset--knkarthick--samsum--0123456789ab.json").write_text("{}")
    assert [one.state for one in doctor_inputs.inputs(asked("tiny", "samsum"))] == ["note"]
    monkeypatch.setattr(doctor_inputs, "hub_answers", lambda: True)
    assert [one.state for one in doctor_inputs.inputs(asked("tiny", "dart"))] == ["ok", "note"]
    assert doctor_inputs.inputs(asked())[-1].found == "1 of 10 tasks fetched"


def test_the_default_run_is_examined_where_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "default run cannot" in last
    assert "model=tiny data=sample" in last
    (found,) = [one for one in doctor_inputs.inputs(asked()) if one.what == doctor_inputs.DEFAULT_RUN]
    for word in ("state-spaces/mamba-1.4b", "data of samsum", "hub"):
        assert word in found.found
    hub = tmp_path / "cache" / "hub"
    hub.mkdir(parents=True)
    for name in ("dataset--nyu-mll--glue", "model--state-spaces--mamba-130m", "model--EleutherAI--gpt-neox-20b"):
        (hub / f"{name}--0123456789ab.json").write_text("{}")
    (found,) = [one for one in doctor_inputs.inputs(asked()) if one.what == doctor_inputs.DEFAULT_RUN]
    assert found.state == "ok"
    assert "glue_rte" in found.found


def test_the_default_model_is_the_one_of_the_configuration() -> None:
    for task in (*benchmarks(), "classify"):
        more = ["data.path=x"] if task == "classify" else []
        composed = compose(["method=lora", f"task={task}", *more])
        assert composed.model["name"] == doctor_inputs.default_model(task)


def test_wordnet_is_a_problem_for_dart_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssm_tune.metrics import wordnet

    def missing() -> None:
        raise UserError("METEOR needs WordNet; get it")

    monkeypatch.setattr(wordnet, "load_wordnet", missing)
    assert only(doctor._wordnet, asked()).state == "note"
    assert only(doctor._wordnet, asked(task="dart", data="sample")).state == "note"
    found = only(doctor._wordnet, asked(task="dart"))
    assert (found.state, found.mend) == ("problem", "python -m nltk.downloader wordnet")


def test_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert only(doctor._slurm, asked()).state == "note"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/sbatch")
    monkeypatch.setattr(doctor, "_output", lambda command: None)
    assert only(doctor._slurm, asked()).mend == "sinfo"
    monkeypatch.setattr(doctor, "_output", lambda command: "debug up\nlong up")
    assert only(doctor._slurm, asked()).found == "partitions: debug up, long up"


def test_a_check_that_fails_itself_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(asked: Asked) -> list[Finding]:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(doctor, "CHECKS", (broken, doctor._python))
    first, second = examine(asked())
    assert (first.state, first.found) == ("problem", "the check failed: ZeroDivisionError: oh")
    assert second.what == "Python"
