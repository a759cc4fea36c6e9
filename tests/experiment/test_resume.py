"""Runs that are killed at 30 moments, or asked to stop, and gone on with: the record is as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssm_tune.records.record import read_record

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
ROWS = {"train": 24, "val": 10, "test": 12}
COMMON = [
    "model=random", "model.tokenizer=tiny", "model.d_model=16", "model.n_layer=2", "method=lora",
    "method.dropout=0.3", "data=local", "data.check=off", "train.epochs=2",
    "train.learning_rate=0.01", "decode.batch_size=4", "decode.num_beams=2", "decode.max_new_tokens=4",
    "checkpoint.steps=2",
]  # fmt: skip
STEP, MANY = "ssm_tune.training.trainer:Trainer.train_steps", "ssm_tune.models.mamba:Mamba."
SAVE = "ssm_tune.training.checkpoint:Checkpoints.save"

# What is hooked, the number of its call, and whether the kill comes before or after it. A run takes 12 steps in two
# epochs; an evaluation, 3 batches, each of them 4 tokens. "glue" answers by one forward pass (and its selection split
# is the reported one), "samsum" is decoded.
MOMENTS: list[tuple[str, str, str, int, str]] = [
    *(("training", "glue", STEP, call, when) for call, when in ((1, "after"), (2, "after"), (3, "before"))),
    *(("training", "samsum", STEP, call, when) for call, when in ((5, "before"), (6, "after"), (7, "before"))),
    ("training", "samsum", STEP, 12, "after"),
    *(("evaluation", "glue", MANY + "prefill", call, when) for call, when in ((2, "after"), (4, "before"))),
    *(("evaluation", "glue", MANY + "prefill", call, when) for call, when in ((6, "before"), (7, "after"))),
    *(("evaluation", "glue", MANY + "prefill", call, when) for call, when in ((8, "after"), (9, "before"))),
    *(("decoding", "samsum", MANY + "step", call, "after") for call in (2, 5, 11, 16, 23, 29)),
    ("checkpoint", "samsum", SAVE, 1, "before"),
    ("checkpoint", "samsum", SAVE, 5, "after"),
    ("checkpoint", "glue", "ssm_tune.training.checkpoint:atomic_write", 3, "before"),
    ("checkpoint", "glue", "ssm_tune.training.checkpoint:atomic_write", 4, "after"),
    ("checkpoint", "samsum", SAVE, 3, "after"),
    ("checkpoint", "samsum", "ssm_tune.training.checkpoint:atomic_write", 6, "before"),
    ("record", "samsum", "ssm_tune.experiment.evaluate:write_jsonl", 2, "after"),
    ("record", "samsum", "ssm_tune.methods.adapter_files:atomic_write", 1, "after"),
    ("record", "samsum", "ssm_tune.experiment.write_record:write_record", 1, "before"),
    ("record", "glue", "ssm_tune.records.record:encode_json", 1, "after"),
    ("record", "glue", "ssm_tune.experiment.write_record:write_record", 1, "after"),
    ("record", "samsum", "ssm_tune.training.checkpoint:Checkpoints.delete", 1, "before"),
]


class Runner:
    """Runs cells in children of a warm process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.errors = root / "stderr"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, str(HELPERS / "kill_server.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip
        self.arguments = {"samsum": ["task=samsum"], "glue": ["task=glue_sst2", "protocol=paper"]}
        for kind, make in (("samsum", chats), ("glue", reviews)):
            make(root / kind)
            self.arguments[kind] += [*COMMON, f"data.path={root / kind}", f"data.name=few_{kind}"]

    def run(self, kind: str, output: Path, *more: str, **moment: Any) -> int:
        order = {"arguments": [*self.arguments[kind], *more], "output": str(output), "stderr": str(self.errors)}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({**order, **moment}) + "\n")
        self.process.stdin.flush()
        status, seconds = self.process.stdout.readline().split()
        self.seconds = float(seconds)  # from the signal to the end
        return int(status)

    def said(self) -> str:
        return self.errors.read_text()


def chats(folder: Path) -> None:
    folder.mkdir()
    for split, count in ROWS.items():
        rows = [
            {"id": f"{split}{i}", "dialogue": f"Anna: Tea{' or cake' * (i % 3)}?\nBen: Yes.", "summary": f"Tea {i}."}
            for i in range(count)
        ]
        (folder / f"{split}.json").write_text(json.dumps(rows))


def reviews(folder: Path) -> None:
    folder.mkdir()
    for split, count in (("train", ROWS["train"]), ("dev", ROWS["test"])):
        lines = [f"{'a dull' if i % 2 else 'a warm and lovely'} film {i}\t{1 - i % 2}" for i in range(count)]
        (folder / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *lines, ""]))


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    started = Runner(tmp_path_factory.mktemp("resume"))
    yield started
    assert started.process.stdin is not None
    started.process.stdin.close()
    started.process.wait(60)


def result(output: Path) -> dict[str, Any]:
    """All of a finished run that must not depend on how it was cut, and nothing else may lie about."""
    (path,) = (output / "runs").rglob("record.json")
    record = read_record(path)
    names = {str(file.relative_to(path.parent)): file for file in path.parent.rglob("*") if file.is_file()}
    same = (
        "status", "cell", "cell_hash", "metrics", "signatures", "parameters", "learning_rate", "steps", "tokens",
        "splits", "notes", "hashes", "left_out",
    )  # fmt: skip
    del names["record.json"]
    return {
        **{key: record[key] for key in same},  # type: ignore[literal-required]
        **{name: file.read_bytes() for name, file in names.items()},
    }


def sessions(output: Path) -> int:
    (path,) = (output / "runs").rglob("record.json")
    return read_record(path)["sessions"]


@pytest.fixture(scope="module")
def whole(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The results of runs that nothing disturbs."""
    found = {}
    for kind in ("samsum", "glue"):
        output = tmp_path_factory.mktemp(f"whole-{kind}")
        assert runner.run(kind, output) == 0, runner.said()
        found[kind] = result(output)
        assert sessions(output) == 1
        assert found[kind]["steps"] == 12
    return found


@pytest.mark.slow
def test_killed_at_30_moments(
    runner: Runner, whole: dict[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(MOMENTS) >= 30
    assert all(sum(row[0] == what for row in MOMENTS) >= 5 for what in {row[0] for row in MOMENTS})
    table, wrong = [], []
    for number, (what, kind, at, call, when) in enumerate(MOMENTS):
        output = tmp_path / str(number)
        killed = runner.run(kind, output, at=at, call=call, when=when, signal=signal.SIGKILL)
        done = bool(list(output.rglob("record.json")))
        again = runner.run(kind, output)
        said = ["done already"] if done else [one for one in runner.said().splitlines() if one.startswith("resuming")]
        same = again == 0 and result(output) == whole[kind]
        place = f"{when} call {call} of {at.split(':')[1]}"
        table.append(f"{what:<11} {kind:<7} {place:<42} {' '.join(said) or 'from its start':<75} {same}")
        if killed != -signal.SIGKILL or not same:
            wrong.append((table[-1], killed, again, runner.said()))
        with capsys.disabled():
            print(table[-1], flush=True)
    assert not wrong
    assert sum("resuming" in row for row in table) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
@pytest.mark.parametrize("place", [("samsum", STEP, 4), ("samsum", MANY + "step", 14), ("glue", MANY + "prefill", 5)])
def test_a_signal_saves_the_state_and_ends_the_run(
    runner: Runner, whole: dict[str, dict[str, Any]], tmp_path: Path, place: tuple[str, str, int], number: int
) -> None:
    kind, at, call = place
    assert runner.run(kind, tmp_path, at=at, call=call, when="before", signal=number) == 128 + number
    assert "the same command resumes from there" in runner.said()
    assert not list(tmp_path.rglob("record.json"))
    assert runner.run(kind, tmp_path) == 0
    assert "resuming this run" in runner.said()
    assert result(tmp_path) == whole[kind]
    assert sessions(tmp_path) == 2
