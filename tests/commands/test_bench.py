"""What the bench makes of its times; the times themselves need a GPU."""

from __future__ import annotations

import pytest
import torch

from ssm_tune.commands import bench, bench_step
from ssm_tune.config import names
from ssm_tune.errors import UserError

TIMES = {"ours": [10.0, 40.0], "offset": [12.0, 50.0], "peer": [50.0, 200.0], "peer_eager": [60.0, 300.0]}


def test_a_row_holds_floors_and_ratios() -> None:
    row = bench.summed_up((2, 1000, 500), TIMES, 4e12, 8e12)
    assert row["floor_bytes"] == pytest.approx([2.0, 5.5])  # 10^6 elements of 2 bytes, 4 and 11 times
    assert row["floor_exponentials"] == pytest.approx([2.0, 4.0])
    assert row["floor"] == pytest.approx([2.0, 5.5])
    assert row["added_percent"] == pytest.approx(25.0)
    assert row["speedup"] == pytest.approx(4.0)
    assert row["forward_over_floor"] == pytest.approx(6.0)
    said = bench.line(row)
    for part in ("2 x 1000 x 500", "12.0 / 50.0", "+25.0%", "60.0 / 300.0", "4.00", "2.0 / 5.5", "6.00"):
        assert part in said


def test_a_row_without_the_package_shows_dashes() -> None:
    row = bench.summed_up((2, 1000, 500), {name: TIMES[name] for name in ("ours", "offset")}, 4e12, 8e12)
    assert "speedup" not in row
    assert bench.line(row).split().count("-") == 3


@pytest.mark.parametrize("shape", ["4x1536", "4x1536x0", "4x12x8", "axbxc"])
def test_a_bad_shape_is_refused(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["scan", "--shape", shape])
    assert shape in capsys.readouterr().err


@pytest.mark.parametrize("what", ["scan", "step"])
def test_without_a_gpu_one_line_says_so(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device"):
        bench.main([what])


def test_a_steps_row_stands_beside_the_official_code(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"milliseconds": 4.0, "weights_gb": 0.26, "peak_gb": 0.4, "said": ""}
    monkeypatch.setattr(bench_step, "_measured", lambda case, capture: found)
    row = bench_step.measured(bench_step.Case("mamba_130m", "lora", 4, 64, (110.0, 0.65)), True)
    assert row["tokens_per_second"] == pytest.approx(64_000)
    assert row["speedup"] == pytest.approx(27.5)
    said = bench_step.line(row).split()
    assert said == ["mamba_130m", "lora", "4", "x", "64", "4.00", "110.0", "27.5", "64,000", "0.26", "0.40", "0.65"]


def test_a_step_that_cannot_be_measured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(case: bench_step.Case, capture: bool) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(bench_step, "_measured", fails)
    said = bench_step.line(bench_step.measured(bench_step.CASES[0], True))
    assert said.split().count("-") == 7
    assert said.endswith("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")


def test_every_method_of_the_steps_is_one_of_ours() -> None:
    assert {case.method for case in bench_step.CASES} <= set(names("method"))
    assert {case.model for case in bench_step.CASES} <= set(names("model"))
