"""The benchmark cpu on a few tokens, and its refusal of a peer that computes something else."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
import torch

from benchmarks import cpu, run
from benchmarks.cpu import Case
from ssm_tune.config.groups import names
from ssm_tune.utils.errors import UserError

SMALL = (
    Case("tiny", 2, (6, 6), 2, method="bitfit"),
    Case("tiny", 3, (3, 7), 1, method="bitfit"),  # padded
    Case("tiny", 2, (6, 6), 1, method="lora"),
    Case("tiny", 2, (6, 6), 1, method="full"),
    Case("tiny", 3, (2, 6), 1, beams=1),
    Case("tiny", 3, (2, 6), 1, beams=5),
)


def run_cases(monkeypatch: pytest.MonkeyPatch, *cases: Case) -> None:
    monkeypatch.setattr(cpu, "CASES", cases)
    cpu.run((), io.StringIO())


@pytest.mark.slow
def test_the_table_has_both_sides_of_every_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "CASES", SMALL)
    assert run.main(["cpu", "--format", "json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["threads"] == torch.get_num_threads()
    assert found["torch"] == torch.__version__
    assert [(row["what"], row["shape"]) for row in found["rows"]] == [
        ("step bitfit", "2 x 6"),
        ("step bitfit", "3 x 3-7"),
        ("step lora", "2 x 6"),
        ("step full", "2 x 6"),
        ("decode, 1 beam", "3 x 2-6"),
        ("decode, 5 beams", "3 x 2-6"),
    ]
    lines = captured.err.splitlines()
    titles = next(at for at, line in enumerate(lines) if line.split()[:2] == ["what", "model"])
    assert f"{found['threads']} threads, torch {found['torch']}" in lines[0]
    assert len(lines[titles + 1 :]) >= len(SMALL)
    for row in found["rows"]:
        ours, theirs = row["milliseconds"]["ours"], row["milliseconds"]["transformers"]
        assert ours > 0 < theirs
        assert row["speedup"] == pytest.approx(theirs / ours)
        assert cpu.line(row) in lines


@pytest.mark.parametrize(
    ("case", "parameter", "which"),
    [
        (SMALL[0], "layers.3.mixer.D", "losses"),
        (SMALL[2], "layers.0.norm.weight", "losses"),
        (SMALL[4], "norm_f.weight", "outputs"),
        (SMALL[5], "norm_f.weight", "outputs"),
    ],
    ids=["bitfit", "lora", "greedy", "beams"],
)
def test_a_peer_that_computes_something_else_is_refused(
    case: Case, parameter: str, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = cpu.peer

    def wrong(model: Any) -> Any:
        theirs = right(model)
        generator = torch.Generator().manual_seed(0)
        tensor = theirs.backbone.get_parameter(parameter).data
        tensor += torch.randn(tensor.shape, generator=generator)
        return theirs

    monkeypatch.setattr(cpu, "peer", wrong)
    with pytest.raises(UserError, match=f"{case.what}, tiny, {case.shape}: .*{which}.* differ"):
        run_cases(monkeypatch, case)


def test_other_gradients_are_refused_where_losses_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cpu._trained_alike
    monkeypatch.setattr(cpu, "_trained_alike", lambda theirs, adapter: right(theirs, adapter)[1:])
    with pytest.raises(UserError, match="the gradient norms differ"):
        cpu.measured(SMALL[0])


@pytest.mark.parametrize("package", ["transformers", "peft"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs the package {package} .*pip install"):
        run_cases(monkeypatch, SMALL[2])


def test_what_fails_says_why_in_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: Any) -> Any:
        raise RuntimeError("Expected x.is_cuda() to be true\nmore")

    monkeypatch.setattr(cpu, "peer", fails)
    said = cpu.line(cpu.measured(SMALL[0]))
    assert said.split().count("-") == 3
    assert said.endswith("RuntimeError: Expected x.is_cuda() to be true")


def test_no_rows_of_a_model_is_no_empty_table() -> None:
    with pytest.raises(UserError, match="no rows of mamba_1b4"):
        run.main(["cpu", "--model", "mamba_1b4"])


def test_every_method_and_model_is_one_of_ours() -> None:
    assert {case.method for case in cpu.CASES if case.method} <= set(names("method"))
    assert {case.model for case in cpu.CASES} <= set(names("model"))
