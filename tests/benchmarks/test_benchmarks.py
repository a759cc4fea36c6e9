"""What the benchmarks make of their times, and their tables; the times themselves need a GPU."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from benchmarks import generate, run, scan, train_step
from benchmarks.device_limits import EXPONENTIALS
from benchmarks.models import SIZES
from benchmarks.official import TrainStep, beam_search_ms, train_steps
from benchmarks.table import Table
from ssm_tune.config.groups import names
from ssm_tune.training.recompute_plan import NO_RECOMPUTE, Recompute
from ssm_tune.utils.errors import UserError

TIMES = {"ours": [10.0, 40.0], "offset": [12.0, 50.0], "peer": [50.0, 200.0], "peer_eager": [60.0, 300.0]}


def test_a_row_holds_floors_and_ratios() -> None:
    row = scan.summed_up((2, 1000, 500), TIMES, 4e12, 8e12)
    assert row["floor_bytes"] == pytest.approx([2.0, 5.5])  # 10^6 elements of 2 bytes, 4 and 11 times
    assert row["floor_exponentials"] == pytest.approx([2.0, 4.0])
    assert row["floor"] == pytest.approx([2.0, 5.5])
    assert row["added_percent"] == pytest.approx(25.0)
    assert row["speedup"] == pytest.approx(4.0)
    assert row["forward_over_floor"] == pytest.approx(6.0)
    said = scan.line(row)
    for part in ("2 x 1000 x 500", "12.0 / 50.0", "+25.0%", "60.0 / 300.0", "4.00", "2.0 / 5.5", "6.00"):
        assert part in said


def test_a_row_without_the_package_shows_dashes() -> None:
    row = scan.summed_up((2, 1000, 500), {name: TIMES[name] for name in ("ours", "offset")}, 4e12, 8e12)
    assert "speedup" not in row
    assert scan.line(row).split().count("-") == 3


@pytest.mark.parametrize("shape", ["4x1536", "4x1536x0", "4x12x8", "axbxc"])
def test_a_bad_shape_is_refused(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["scan", "--shape", shape])
    assert shape in capsys.readouterr().err


@pytest.mark.parametrize("what", ["scan", "step", "generate"])
def test_without_a_gpu_one_line_says_so(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device"):
        run.main([what])


def test_a_steps_row_stands_beside_the_official_code(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"milliseconds": 4.0, "weights_gb": 0.26, "peak_gb": 0.4, "note": ""}
    monkeypatch.setattr(train_step, "_measured", lambda case, graphs, share: found)
    row = train_step.measured(TrainStep("mamba_130m", "lora", 4, 64, 110.0, 0.65), True)
    assert row["tokens_per_second"] == pytest.approx(64_000)
    assert row["speedup"] == pytest.approx(27.5)
    said = train_step.line(row).split()
    assert said == ["mamba_130m", "lora", "4", "x", "64", "4.00", "110.0", "27.5", "64,000", "0.26", "0.40", "0.65"]


def test_a_step_that_cannot_be_measured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(case: TrainStep, graphs: bool, share: float | None) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(train_step, "_measured", fails)
    said = train_step.line(train_step.measured(train_steps()[0], True))
    assert said.split().count("-") == 7
    assert said.endswith("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")


def test_a_steps_row_says_how_many_blocks_are_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "milliseconds": 4.0,
        "weights_gb": 0.26,
        "peak_gb": 0.4,
        "note": "",
        "recomputed_blocks": 5,
        "partly_recomputed_blocks": 24,
        "layers": 24,
        "allowed_gb": 0.455,
    }
    monkeypatch.setattr(train_step, "_measured", lambda case, graphs, share: found)
    row = train_step.measured(TrainStep("mamba_130m", "lora", 4, 64, 110.0, 0.65), True, 0.5)
    assert "5 of 24 blocks, parts of 24, allowed 0.46 GB" in train_step.line(row)
    what: dict[str, Any] = {"device": "a GPU", "torch": "2", "how": "as CUDA graphs"}
    assert "allowed: the weights and 0.5 of" in train_step.about(what | {"memory": 0.5})
    assert "allowed" not in train_step.about(what | {"memory": None})


def test_a_share_of_the_official_peak_is_for_all_but_the_weights() -> None:
    case = TrainStep("mamba_130m", "lora", 4, 64, 110.0, 0.65)
    # of 0.65 - 0.25 GB half; of these 0.01 are the adapter, three times as many its gradients and moments
    found = train_step.activations_budget(case, 0.5, 250_000_000, 10_000_000, 10_000_000, 20_000_000)
    assert found == pytest.approx(0.14e9)
    with pytest.raises(UserError, match=r"0\.75 GB of .*more than the 0\.2 GB"):
        train_step.activations_budget(case, 0.5, 250_000_000, 0, 250_000_000, 0)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_steps_are_planned_as_a_run_plans_them(method: str) -> None:
    cpu = torch.device("cpu")
    roomy = TrainStep("tiny", method, 2, 100, 1.0, 1.0)
    plan = train_step.planned(roomy, True, 1.0, cpu)
    assert (plan.recompute, plan.rows, plan.length, plan.labels) == (
        NO_RECOMPUTE,
        2,
        112,
        64,
    )  # padded as for CUDA graphs
    assert train_step.planned(roomy, False, 1.0, cpu).length == 100

    # 128 x 2048 in the embedding, and 6 blocks; bfloat16 but for A_log and D
    block = 2 * (128 * 512 + 256 * 4 + 256 + 256 * 40 + 8 * 256 + 256 + 256 * 128 + 128) + 4 * (256 * 16 + 256)
    weights = 2 * 128 * 2048 + 6 * block + 2 * 128
    ranks = 6 * 8 * (8 + 256 + 3 * 256 + 8 + 16 + 16)  # dt_proj's, and x_proj's for dt, B and C
    spent = 2 * 4 * ranks if method == "lora" else 3 * weights
    tight = (spent + plan.needs(2, Recompute(3, 6)) + weights) / 1e9
    for more, blocks in ((1e-6, 3), (-1e-6, 4)):
        case = TrainStep("tiny", method, 2, 100, 1.0, tight + more)
        assert train_step.planned(case, True, 1.0, cpu).recompute == (blocks, 6)


def test_a_budget_that_nothing_keeps_to_is_named_in_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(
        train_step, "_measured", lambda case, graphs, share: {"plan": train_step.planned(case, graphs, share, cpu)}
    )
    row = train_step.measured(TrainStep("tiny", "lora", 2, 64, 1.0, 0.004), True, 0.5)
    assert "GB of the budget" in train_step.line(row)
    row = train_step.measured(TrainStep("tiny", "full", 2, 64, 1.0, 0.004), True, 0.5)
    assert "AdamW's moments" in train_step.line(row)


@pytest.mark.parametrize("share", ["0", "-1", "half", "nan"])
def test_a_share_that_is_none_is_refused(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["step", f"--memory={share}"])
    assert f"'{share}' is not a positive number" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    ["cpu --method lora", "cpu --memory 0.5", "step --shape 4x8x16", "scan --cuda-graphs off", "step --model tiny"],
)
def test_an_option_of_another_benchmark_is_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(words.split())
    assert ended.value.code == 2
    assert words.split()[1] in capsys.readouterr().err


def test_every_method_of_the_steps_is_one_of_ours() -> None:
    assert {case.method for case in train_steps()} <= set(names("method"))
    assert {case.model for case in train_steps()} <= set(names("model")) & set(SIZES)


def test_the_official_beam_search_is_in_proportion_to_new_tokens() -> None:
    assert beam_search_ms("mamba_1b4", 5, 40) == 2210.0
    assert beam_search_ms("mamba_1b4", 5, 20) == 1105.0
    assert beam_search_ms("mamba_1b4", 1, 40) is None
    assert beam_search_ms("tiny", 5, 40) is None


def test_a_table_prints_its_rows_in_columns() -> None:
    table, file = Table({"what": 6, "ms": 5}), io.StringIO()
    rows = [{"what": "a", "ms": 1.5}, {"what": "b", "failed": "no memory"}]

    def line(row: dict[str, Any]) -> str:
        if "failed" in row:
            return table.line({"what": row["what"]}, row["failed"])
        return table.line({"what": row["what"], "ms": f"{row['ms']:.2f}"})

    assert table.print("about", iter(rows), line, file) == rows
    assert file.getvalue() == "about\n  what    ms\n     a  1.50\n     b     -  no memory\n"
    with pytest.raises(KeyError, match="hours"):
        table.line({"hours": "1"})


def test_the_kernel_outside_the_package_is_found() -> None:
    assert "exponentials(" in EXPONENTIALS.source


def test_an_error_for_the_user_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> int:
        raise UserError("no device: do this")

    assert run.exit_status(fails) == 2
    assert capsys.readouterr().err == "error: no device: do this\n"


def test_decodings_row_holds_the_floor_and_stands_beside_the_official_code(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "seconds": 5.0,
        "prefill_seconds": 1.0,
        "tokens": 40_000,
        "steps": 400,
        "places": 256,
        "peak_gb": 40.0,
        "step_bytes": 20_000_000_000,
        "note": "",
    }
    monkeypatch.setattr(generate, "_measured", lambda case: found)
    row = generate.measured(generate.Case("mamba_1b4", 5, 1000), 4e12)
    assert row["milliseconds"] == pytest.approx(5.0)
    assert row["step_milliseconds"] == pytest.approx(10.0)
    assert row["floor_milliseconds"] == pytest.approx(5.0)
    said = generate.line(row).split()
    assert said[:7] == ["mamba_1b4", "5", "1000", "150+40", "256", "5.00", "5.00"]
    assert said[7:] == ["8,000", "1.00", "10.00", "5.00", "50%", "442", "40.0"]


def test_drawn_lengths_are_within_the_quantiles_and_about_their_means() -> None:
    case = generate.Case("mamba_1b4", 5, 819, lengths=True)
    lengths = generate.lengths_of(case)
    assert lengths == generate.lengths_of(case)
    for drawn, known in zip(
        zip(*lengths, strict=True), (generate.PROMPT_QUANTILES, generate.REFERENCE_QUANTILES), strict=True
    ):
        assert min(known) <= min(drawn) <= max(drawn) <= max(known)
        assert sum(drawn) / len(drawn) == pytest.approx(sum(known[1:-1]) / (len(known) - 2), rel=0.25)


def test_decoding_is_timed_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_ROUNDS", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    row = generate.measured(generate.Case("tiny", 2, 3), None)
    assert "failed" not in row
    assert row["places"] == 3
    assert row["tokens"] == 3 * generate.NEW_TOKENS
    assert 0 < row["prefill_seconds"] < row["seconds"]
