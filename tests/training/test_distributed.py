"""A batch in micro batches, or shared by processes: the losses and weights of a whole one, whatever the method."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_models import Silent
from helpers.training_runs import METHODS, Uncaptured, started
from hypothesis import given
from hypothesis import strategies as st

from ssm_tune.cli import main
from ssm_tune.records.record import read_record
from ssm_tune.training import distributed as parallel
from ssm_tune.training.distributed import ProcessGroup, micro_batches
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import Stopped, UserError
from ssm_tune.utils.files import read_jsonl

TESTS = Path(__file__).resolve().parents[1]


class Threaded(ProcessGroup):
    """One of several threads that sum as processes would, in the order of their numbers."""

    def __init__(self, rank: int, given: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, len(given))
        self.given, self.turn = given, barrier

    def all_reduce(self, tensor: torch.Tensor) -> None:
        self.given[self.rank] = tensor.clone()
        self.turn.wait(60)
        total = sum(self.given)
        self.turn.wait(60)
        tensor.copy_(total)


def trained(training: Trainer) -> Trainer:
    training.fit(lambda epoch, step: None, Silent())
    return training


def in_threads(size: int, name: str, **changes: Any) -> list[Trainer]:
    """What each of ``size`` threads holds after they have trained together."""
    given, barrier = [None] * size, threading.Barrier(size)
    trainings = [started(name, group=Threaded(rank, given, barrier), **changes) for rank in range(size)]
    threads = [threading.Thread(target=trained, args=(training,), daemon=True) for training in trainings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return trainings


def assert_same(whole: Trainer, other: Trainer) -> None:
    assert len(whole.result.steps) == len(other.result.steps) == 22 + whole.warmup.steps
    for one, two in zip(whole.result.steps, other.result.steps, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=2e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=2e-3, abs=1e-7)
        assert (one["tokens"], one["learning_rate"]) == (two["tokens"], two["learning_rate"])


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("capture", [False, True], ids=["plain", "captured"])
def test_micro_batches_train_as_the_whole_batch(name: str, capture: bool) -> None:
    whole = trained(started(name))
    graphs = Uncaptured() if capture else None
    parts = trained(started(name, capture=graphs, micro_batch=1))
    assert_same(whole, parts)
    for parameter in parts.adapter.model.parameters():
        assert parameter.requires_grad == (parameter.grad is not None)  # what is frozen has no memory for a gradient
    if graphs is not None:
        assert graphs.replays > 22  # updates, and most of the four parts of each step


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_as_one(name: str) -> None:
    one, two = in_threads(2, name)
    assert_same(trained(started(name)), one)
    assert one.result.steps == two.result.steps
    for parameter, other in zip(one.step.parameters, two.step.parameters, strict=True):
        assert torch.equal(parameter, other)


def test_processes_have_micro_batches_and_graphs_of_their_own() -> None:
    whole = trained(started("lora"))
    for training in in_threads(2, "lora", capture=Uncaptured(), micro_batch=1):
        assert_same(whole, training)


def test_a_bfloat16_adapter_is_summed_in_both_of_its_dtypes() -> None:
    """additional_scan's A_log stays float32 beside bfloat16."""
    one, two = in_threads(2, "additional_scan", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in one.step.parameters} == {torch.bfloat16, torch.float32}
    assert one.result.steps == two.result.steps
    for row, other in zip(trained(started("additional_scan", dtype=torch.bfloat16)).result.steps, one.result.steps,
                          strict=True):  # fmt: skip
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-2)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_every_row_belongs_to_one_part(size: int, micro_batch: int, parts: int) -> None:
    batch_size = size * micro_batch * parts
    rows = [
        row
        for rank in range(size)
        for part in micro_batches(batch_size, micro_batch, ProcessGroup(rank, size))
        for row in range(batch_size)[part]
    ]
    assert rows == list(range(batch_size))
    assert micro_batches(batch_size, None, ProcessGroup()) == [slice(0, batch_size)]


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="train\\.batch_size=4 cannot be shared evenly by 3 processes"):
        micro_batches(4, None, ProcessGroup(0, 3))
    with pytest.raises(UserError, match=r"train.micro_batch=3 does not divide train.batch_size=4$"):
        micro_batches(4, 3, ProcessGroup())
    with pytest.raises(UserError, match=r"train.micro_batch=4 does not divide train.batch_size=4 / 2 processes = 2"):
        micro_batches(4, 4, ProcessGroup(0, 2))


CELL = ["method=lora", "task=samsum", "model=random", "model.tokenizer=tiny", "model.d_model=16", "model.n_layer=1",
        "data=sample", "train.epochs=1", "train.max_steps=8", "decode.num_beams=2", "decode.max_new_tokens=3",
        "decode.batch_size=200", "device=cpu", "train.learning_rate=0.01"]  # fmt: skip


def run(output: Path, *program: str, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    return subprocess.run(
        [sys.executable, *program, *CELL, *more, f"output_dir={output}"],
        capture_output=True, text=True, env=environment, check=False, timeout=300,
    )  # fmt: skip


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def ours(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("ssm-tune:")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone")
    done = run(output, "-m", "ssm_tune")
    assert done.returncode == 0, done.stderr
    return output


def folder(output: Path) -> Path:
    (path,) = (output / "runs").rglob("record.json")
    return path.parent


@pytest.mark.slow
def test_torchrun_leaves_what_one_process_leaves(alone: Path, tmp_path: Path) -> None:
    """Stopped by a signal that only one of two processes gets, then gone on with."""
    stopped = run(tmp_path, *TORCHRUN, str(TESTS / "helpers" / "failing_process.py"), "signals")
    assert ours(stopped) == ["ssm-tune: stopped, and saved (step 4): the same command resumes from there"]
    assert "exitcode  : 143" in stopped.stderr
    assert not list(tmp_path.rglob("record.json"))
    done = run(tmp_path, *TORCHRUN, "-m", "ssm_tune")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("resuming this run (step 4)") == 1
    assert done.stdout.count("record: ") == 1
    one, two = folder(alone), folder(tmp_path)
    assert one.name == two.name
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    for row, other in zip(read_jsonl(one / "steps.jsonl.gz"), read_jsonl(two / "steps.jsonl.gz"), strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-5)
    assert list(read_jsonl(one / "predictions.jsonl.gz")) == list(read_jsonl(two / "predictions.jsonl.gz"))
    records = [read_record(path) for path in (one, two)]
    for what in ("metrics", "tokens", "parameters", "steps"):
        assert str(records[0][what])[:40] == str(records[1][what])[:40]  # type: ignore[literal-required]
    assert [record["backend"]["processes"] for record in records] == [1, 2]


@pytest.mark.slow
def test_a_process_that_fails_ends_all_with_its_line(tmp_path: Path) -> None:
    done = run(tmp_path, *TORCHRUN, str(TESTS / "helpers" / "failing_process.py"), "fails", more=("frozen=false",))
    assert ours(done) == ["ssm-tune: enough of this; do something else"]
    assert "exitcode  : 2 (pid" in done.stderr
    (failed,) = tmp_path.rglob("failed.json")
    assert "process 1: enough of this" in failed.read_text()


@pytest.mark.slow
def test_what_all_processes_find_wrong_is_said_once(tmp_path: Path) -> None:
    done = run(tmp_path, *TORCHRUN, "-m", "ssm_tune", more=("train.batch_size=5",))
    assert ours(done) == ["ssm-tune: train.batch_size=5 cannot be shared evenly by 2 processes: start a number of them "
                          "that divides it"]  # fmt: skip
    done = run(tmp_path, *TORCHRUN, "-m", "ssm_tune", more=("train.bach_size=5",))
    assert len(ours(done)) == 1
    assert "did you mean train.batch_size" in done.stderr


def test_torchrun_with_many_cells_is_refused_by_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(parallel, "FAILURE_TIMEOUT", timedelta())
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert main(["-m", "method=lora,bitfit", "task=samsum"]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == lines
        assert all("start it without -m" in line for line in said)


class Board:
    """A store as torch.distributed's, for threads of this process."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.lock = threading.Lock()

    def add(self, name: str, number: int) -> int:
        with self.lock:
            self.numbers[name] = self.numbers.get(name, 0) + number
            return self.numbers[name]

    def check(self, names: list[str]) -> bool:
        return all(name in self.numbers for name in names)


def test_who_is_stopped_while_it_waits_leaves_no_mark_and_goes_on_where_all_have_come() -> None:
    board = Board()
    first, second = ProcessGroup(0, 2, board), ProcessGroup(1, 2, board)

    def stopped() -> None:
        raise Stopped("", 15)

    with pytest.raises(Stopped):
        first.barrier(stopped)
    assert board.numbers == {"barrier 1": 0}

    def second_comes() -> None:
        second.barrier()
        raise Stopped("", 15)

    first = ProcessGroup(0, 2, board)
    first.barrier(second_comes)
    assert board.numbers == {"barrier 1": 2}
