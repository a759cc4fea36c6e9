"""ssm-tune plan: what it counts is what the run then does, what does not fit is said, what is done costs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssm_tune.cli import main
from ssm_tune.config.schema import TrainConfig
from ssm_tune.hub import download
from ssm_tune.planning import profiling as probe
from ssm_tune.planning.workload import Batches, training_work
from ssm_tune.records.record import read_record
from ssm_tune.training.position import BatchOrder, Position
from ssm_tune.training.settings import TrainSettings, total_steps
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import UserError

CELL = [
    "method=state_offset_y",
    "model=tiny",
    "data=sample",
    "decode.num_beams=1",
    "decode.max_new_tokens=3",
    "decode.batch_size=8",
]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "SECONDS", 0.0)
    monkeypatch.setattr(probe, "BLOCKS", 1)


def planned(capsys: pytest.CaptureFixture[str], *settings: str, status: int = 0) -> list[dict[str, Any]]:
    assert main(["plan", *settings, "--json"]) == status
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["cells"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["task=samsum", "train.max_steps=3"],
        [
            "task=classify",
            "data=local",
            "data.path=mine.jsonl",
            "train.epochs=3",
            "train.evaluate_every=2",
            "train.batch_size=4",
            "train.micro_batch=2",
        ],
    ],
)
def test_the_run_records_what_was_planned(settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.dumps({"text": f"Anna: {'very ' * (n % 7)}good {n}?", "label": n % 2}) for n in range(40)]
    Path("mine.jsonl").write_text("\n".join(rows))
    [plan] = planned(capsys, *CELL, *settings)
    assert plan["status"] == "planned"
    assert all(plan["hours"][name] > 0 for name in ("load", "train", "evaluate"))
    assert main([*CELL, *settings]) == 0
    path = Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("record: "))
    record = read_record(path)
    assert plan["steps"] == record["steps"]
    assert plan["tokens"] == record["tokens"]["train"]
    assert plan["padded_tokens"] >= plan["tokens"]
    times = {row["what"]: row["times"] for row in plan["evaluations"]}
    assert times["selection"] == len(record["metrics"]["epochs"])
    assert times["frozen"] == 1
    # it has its record now, and costs nothing more
    [done] = planned(capsys, *CELL, *settings)
    assert (done["status"], done["hours"]) == ("done", None)
    # the base model's answers are kept: another seed's run needs none
    [other] = planned(capsys, *CELL, *settings, "seed=1042")
    assert "frozen" not in {row["what"] for row in other["evaluations"]}


def test_runs_that_differ_in_seed_are_measured_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timed: list[Any] = []
    real = probe.milliseconds_a_step

    def counted(training: Trainer, seconds: float, blocks: int) -> float:
        timed.append(training)
        return real(training, seconds, blocks)

    monkeypatch.setattr(probe, "milliseconds_a_step", counted)
    plans = planned(capsys, *CELL, "task=glue_rte", "train.max_steps=1", "seed=42,42")
    assert len(timed) == 1  # one step has one shape
    assert plans[0]["milliseconds"] == plans[1]["milliseconds"]
    assert [len(plan["evaluations"]) for plan in plans] == [3, 2]  # the first scores the base model for both


def short_of_memory(monkeypatch: pytest.MonkeyPatch, name: str, rows_of: Any, most: int) -> None:
    """From here on ``probe.name`` has no memory for more than ``most`` rows."""
    real = getattr(probe, name)

    def limited(*given: Any, **named: Any) -> Any:
        if rows_of(*given) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(*given, **named)

    monkeypatch.setattr(probe, name, limited)


@pytest.mark.slow
@pytest.mark.parametrize(("most", "advice"), [(2, "train.micro_batch=2"), (0, "nor does a single example")])
def test_training_that_does_not_fit(
    most: int, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short_of_memory(monkeypatch, "training_on_random_tokens", lambda adapter, shape, capture, rows: rows, most)
    assert main(["plan", *CELL, "task=glue_rte", "train.batch_size=12"]) == 2
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert "out of memory in training: 12 x " in last
    assert advice in last
    assert "Traceback" not in captured.err


def test_evaluation_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    short_of_memory(monkeypatch, "_read_off", lambda model, prompts, size: len(prompts), 20)
    assert main(["plan", *CELL[:-1], "task=glue_rte", "train.max_steps=1"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "out of memory in evaluation: 64 x " in last
    assert "decode.batch_size=16" in last


@pytest.mark.slow
def test_a_sweep_says_all_of_its_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One run that does not fit takes no other with it."""
    short_of_memory(
        monkeypatch,
        "training_on_random_tokens",
        lambda adapter, shape, capture, rows: 9 if adapter.method.name == "lora" else 1,
        2,
    )
    cell = [*CELL[1:], "task=glue_rte", "train.max_steps=1", "method=lora,bitfit"]
    assert main(["plan", *cell]) == 2
    captured = capsys.readouterr()
    assert "1 does not fit, 1 planned" in captured.out
    assert "1 of 2" in captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["method=lora", "task=samsum", "data=local", "data.path=nowhere", "model=tiny"], "nowhere"),
        (["method=lora", "task=sansum"], "samsum"),
        (["main"], "hub"),
        (["method=bitfit,lora", "task=glue_rte", "model=tiny"], "hub"),
        (["nosweep"], "nosweep"),
        ([], "plan needs"),
        (["--paper"], "python -m benchmarks.paper_grid"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def out_of_reach(*repository: object) -> None:
        raise UserError("the hub cannot be reached")

    monkeypatch.setattr(download, "_manifest", out_of_reach)
    assert main(["plan", *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1  # nothing was measured before it was found
    assert captured.out == ""


@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=30),
    st.integers(1, 7),
    st.integers(1, 3),
    st.integers(0, 5),
    st.none() | st.integers(1, 20),
)
def test_steps_are_those_of_the_trainer(
    lengths: list[int], size: int, epochs: int, seed: int, max_steps: int | None
) -> None:
    """Against the trainer's own choice of batches."""
    size = min(size, len(lengths))
    settings = TrainSettings.of(TrainConfig(epochs=epochs, max_steps=max_steps), 1e-3, size, seed)
    tokens, batches = training_work(lengths, [1] * len(lengths), settings, buckets=False)
    order, position = BatchOrder(len(lengths), size, seed), Position()
    taken = [[lengths[i] - 1 for i in order.next(position)] for _ in range(total_steps(len(lengths), settings)[1])]
    assert tokens == sum(map(sum, taken))
    assert batches.padded == sum(size * max(batch) for batch in taken)
    assert int(batches.counts.sum()) == len(taken)
    assert batches.largest()[0][1] == max(map(max, taken))
    first = taken[:4]  # a warm-up of four steps has the training's first batches, or all
    longer, more = training_work(lengths, [1] * len(lengths), settings, buckets=False, warmup=4)
    assert longer - tokens == sum(map(sum, first))
    assert more.padded - batches.padded == sum(size * max(batch) for batch in first)
    assert int(more.counts.sum()) == len(taken) + len(first)


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 50), st.integers(0, 9)), min_size=1, max_size=40))
def test_times_on_a_line_sum_exactly(shapes: list[tuple[int, int, int]]) -> None:
    batches = Batches.of(np.array(shapes))
    largest, typical = batches.largest(), batches.typical()
    assert largest[0][0] * largest[0][1] == max(rows * length for rows, length, _ in shapes)
    assert max(steps for _, _, steps in largest) == max(steps for _, _, steps in shapes)
    assert {*largest, typical} <= set(shapes)
    times = {shape: 2.0 + 0.5 * shape[0] * shape[1] for shape in (*largest, typical)}
    if len({rows * length for rows, length, _ in times}) == len({rows * length for rows, length, _ in shapes}):
        assert batches.total(times) == pytest.approx(sum(2.0 + 0.5 * rows * length for rows, length, _ in shapes))
    assert batches.decoding_steps == sum(steps for _, _, steps in shapes)
