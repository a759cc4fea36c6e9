"""Sweep files and lists: what they expand to, what is refused, what a relaunch runs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers.conf_folder import own_conf
from helpers.quick_runs import settings, write_data
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from hydra_plugins.ssm_tune_launchers import local
from hydra_plugins.ssm_tune_launchers.local import LocalLauncher
from ssm_tune.cli import main
from ssm_tune.config.compose import Composer, compose
from ssm_tune.config.groups import benchmarks, names
from ssm_tune.records.run_id import labels_of
from ssm_tune.reporting.table_rows import GROUPS
from ssm_tune.sweeps import sweep_file as sweep
from ssm_tune.sweeps.status import early_failure_path
from ssm_tune.sweeps.sweep_file import read_sweep
from ssm_tune.utils.errors import UserError

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
CELL = ["method=state_offset_y", "task=glue_rte", "model=tiny", "data=sample"]
QUICK = ["train.max_steps=2", "frozen=false"]


def lines(*settings: str) -> list[str]:
    return [" ".join(cell.overrides) for cell in read_sweep(settings).runs]


def test_the_command_lines_lists_are_multiplied() -> None:
    assert lines("method=a,b", "seed=1,2", "x=3") == [
        "method=a seed=1 x=3", "method=a seed=2 x=3", "method=b seed=1 x=3", "method=b seed=2 x=3",
    ]  # fmt: skip
    assert lines("seed=range(1,3)", "y=4") == ["seed=1 y=4", "seed=2 y=4"]
    found = read_sweep(["hydra/launcher=local", "hydra.launcher.n_jobs=2", "sweep.on_error=stop", "seed=1"])
    assert (found.hydra, found.on_error) == (["hydra/launcher=local", "hydra.launcher.n_jobs=2"], "stop")


PAPER_METHODS = [method for group in GROUPS.values() for method in group]


@pytest.mark.parametrize("name", names("sweep"))
def test_every_sweep_composes(name: str) -> None:
    composer = Composer()
    cells = read_sweep([f"+sweep={name}"]).runs
    assert cells
    for cell in cells:
        composer.config(cell.overrides)


def test_every_sweep_that_the_documents_name_exists() -> None:
    root = Path(__file__).resolve().parents[2]
    texts = [path.read_text(encoding="utf-8") for path in (root / "README.md", *(root / "docs").glob("*.md"))]
    named = {name for text in texts for found in re.findall(r"\+sweep=([\w,]+)", text) for name in found.split(",")}
    assert "mamba_25m" in named
    assert named <= set(names("sweep"))


def test_the_tiny_sweep_is_all_tasks_the_papers_methods_three_seeds() -> None:
    cells = [dict(item.split("=", 1) for item in cell.overrides) for cell in read_sweep(["+sweep=tiny"]).runs]
    expected = itertools.product(benchmarks(), PAPER_METHODS, ("42", "1042", "2042"))
    assert sorted((cell["task"], cell["method"], cell["seed"]) for cell in cells) == sorted(expected)
    by_task = {(cell["task"], *(v for k, v in cell.items() if k not in ("method", "seed"))) for cell in cells}
    assert len(by_task) == len(benchmarks())  # settings are the same for all methods and seeds of a task


def test_a_sweep_is_narrowed_and_changed_from_the_command_line() -> None:
    assert len(lines("+sweep=tiny", "seed=42")) == 10 * len(PAPER_METHODS)
    assert len(lines("+sweep=tiny", "seed=42", "task=samsum,spider", "method=lora")) == 2
    other = lines("+sweep=tiny", "seed=7", "task=samsum", "method=lora", "output_dir=x")
    assert len(other) == 1
    assert other[0].split().count("seed=7") == 1
    assert "seed=42" not in other[0]
    both = lines("+sweep=main,glue", "seed=42", "method=lora", "task=glue_rte")
    assert len(both) == len(set(both))


@pytest.mark.parametrize(
    "settings", [["method=state_offset", "method.rank=4", "seed=7", "train.max_steps=3"], ["method=lora", "seed=1"]]
)
def test_shared_compositions_are_those_of_hydra(settings: list[str]) -> None:
    composer = Composer()
    composer.config(["method=full", *CELL[1:]])
    for extra in ([], ["train.learning_rate=1e-2"]):
        cell = [*CELL[1:], *settings, *extra]
        assert dataclasses.asdict(composer.config(cell)) == dataclasses.asdict(compose(cell))


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """conf/ with a sweep of ours in it."""
    return own_conf(tmp_path, "sweep", monkeypatch)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "blocks: [{task: samsun, method: lora}]",
            "mine.yaml, block 1: there is no task 'samsun': did you mean samsum",
        ),
        ("blocks: [{task: samsum}, {method: [lora, bitfitt]}]", "block 2: there is no method 'bitfitt': did you mean"),
        ("blocks: [{seed: []}]", "block 1: seed has no values"),
        ("blocks: [{train: {epochs: 1}}]", "block 1: train must be a value or a list"),
        ("block: []", "must hold 'blocks:'"),
        ("blocks: 3", "must hold 'blocks:'"),
        ("blocks: [", "cannot be read"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(text: str, said: str, written: Path) -> None:
    written.write_text(text)
    with pytest.raises(UserError) as caught:
        read_sweep(["+sweep=mine"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_option_in_a_file_stops_before_anything_runs(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written.write_text("blocks: [{task: glue_rte, method: [lora, bitfit], method.rank: 2, model: tiny, data: sample}]")
    assert main(["-m", "+sweep=mine", f"output_dir={tmp_path / 'results'}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ssm-tune: conf/sweep/mine.yaml, block 1: bitfit has no option 'rank'")
    assert err.count("\n") == 1
    assert not (tmp_path / "results").exists()


@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.text(st.characters(min_codepoint=32, max_codepoint=382, exclude_characters="$")),
    )
)
def test_values_reach_hydra_as_they_stand_in_the_file(value: object) -> None:
    override = OverridesParser.create().parse_override(f"key={sweep.on_command_line(value)}")
    found = override.value()
    assert getattr(found, "text", found) == value
    assert type(getattr(found, "text", found)) is type(value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["+sweep=tini"], "there is no sweep 'tini': did you mean tiny"),
        (["+sweep=tiny", "task=glue_rt"], "conf/sweep/tiny.yaml has no task 'glue_rt': did you mean glue_rte"),
        (["+sweep=tiny", "sweep.on_error=halt"], "sweep.on_error must be one of continue, stop"),
        (["+sweep=tiny", "sweep.onerror=stop"], "there is no setting 'sweep.onerror'"),
        ([*CELL, "hydra/launcher=lokal"], "there is no hydra/launcher 'lokal'"),
        ([*CELL, "hydra/launcher=local", "hydra.launcher.n_jobs=0"], "n_jobs must be a whole number of at least 1"),
        ([*CELL, "hydra/launcher=slurm", "hydra.launcher.cells_per_job=0"], "cells_per_job must be a whole number of"),
        ([*CELL, "hydra/launcher=slurm", "hydra.launcher.cells_per_job=many"], "cells_per_job must be a whole number"),
        ([*CELL, "train.epoch=3", "seed=1,2"], "there is no setting 'train.epoch': did you mean train.epochs"),
    ],
)
def test_wrong_words_are_one_line(
    settings: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", *settings, f"output_dir={tmp_path}"]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("setting", ["+sweep=tiny", "hydra/launcher=slurm"])
def test_what_is_for_many_cells_needs_m(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CELL, setting]) == 2
    assert "add -m" in capsys.readouterr().err


def ssm_tune(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ssm_tune", *arguments]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_a_relaunch_runs_what_is_missing_and_a_killed_worker_fails_its_cell_alone(tmp_path: Path) -> None:
    many = ["-m", *CELL, *QUICK, "seed=1,2", "hydra/launcher=local", "hydra.launcher.n_jobs=2"]
    command = [sys.executable, "-m", "ssm_tune", *many]
    child = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    victim, deadline = None, time.monotonic() + 300
    while victim is None and time.monotonic() < deadline:
        for path in tmp_path.glob("results/runs/*/.claims/*/0.json"):
            if (said := json.loads(path.read_text()))["outcome"] is None:
                victim = said
        time.sleep(0.05)
    assert victim is not None
    os.kill(victim["pid"], signal.SIGKILL)
    out, _ = child.communicate(timeout=400)
    assert child.returncode == 1
    assert "its process was killed by SIGKILL" in out
    assert "1 done" in out
    assert "1 failed" in out

    status = ssm_tune("status", *CELL, *QUICK, "seed=1,2,3", "--format", "json", cwd=tmp_path)
    assert status.returncode == 1
    told = json.loads(status.stdout)
    assert {name: count for name, count in told["counts"].items() if count} == {"done": 1, "stale": 1, "missing": 1}

    again = ssm_tune("-m", *CELL, *QUICK, "seed=1,2", cwd=tmp_path)
    assert again.returncode == 0
    assert "1 done already, 1 to run" in again.stderr
    assert "1 kept" in again.stdout
    assert ssm_tune("status", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_a_run_that_kills_its_process_fails_alone_and_is_passed_over_the_next_time(tmp_path: Path) -> None:
    """The serial launcher's worker is killed in the first of two runs."""
    settings = [*CELL[1:], *QUICK, f"output_dir={tmp_path}"]
    command = [sys.executable, "-m", "ssm_tune", "-m", "method=state_offset_y,bitfit", *settings]
    sweep = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    killed = False
    while not killed and sweep.poll() is None:
        for path in tmp_path.glob("runs/glue_rte/.claims/*state_offset_y*/0.json"):
            os.kill(json.loads(path.read_bytes())["pid"], signal.SIGKILL)
            killed = True
        time.sleep(0.02)
    out, err = sweep.communicate(timeout=300)
    assert (killed, sweep.returncode) == (True, 1)
    assert "SIGKILL" in err
    assert "1 failed, 1 done" in out
    again = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert "passed over" in again.stdout
    assert "1 failed, 1 kept" in again.stdout
    by_name = [sys.executable, "-m", "ssm_tune", CELL[0], *settings]
    done = subprocess.run(by_name, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr


def test_a_failure_before_the_folder_is_known_is_told_by_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [*CELL, *QUICK, "train.batch_size=100000", f"output_dir={tmp_path}"]
    assert main(["-m", *bad, "seed=1"]) == 2
    assert early_failure_path(compose([*bad, "seed=1"])).exists()
    capsys.readouterr()
    assert main(["status", *bad, "seed=1"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("failed ")
    assert "train.batch_size=100000 is more than" in out


def test_on_error_stop_starts_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = ["-m", *CELL, *QUICK, "train.batch_size=100000", "seed=1,2,3", f"output_dir={tmp_path}"]
    assert main([*bad, "sweep.on_error=stop"]) == 2
    assert "1 failed, 2 not run" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_stops_all_processes_and_the_same_line_goes_on(tmp_path: Path) -> None:
    many = ["-m", *CELL, "frozen=false", "seed=1,2,3", "hydra/launcher=local", "hydra.launcher.n_jobs=2"]
    command = [sys.executable, "-m", "ssm_tune", *many]
    # a shell's background job ignores Ctrl-C, and so would a child of the tests that run in one
    child = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while len(held := list(tmp_path.glob("results/runs/*/.claims/*/0.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=300)
    assert child.returncode == 130
    assert "3 runs, 2 at a time" in err
    assert "stopping 2 runs" in err
    assert "2 stopped, 1 not run" in out
    assert "Traceback" not in err
    assert [json.loads(path.read_text())["outcome"] for path in held] == ["stopped"] * 2
    assert not list(tmp_path.rglob("record.json"))


def test_the_local_launcher_shows_how_far_a_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "PROGRESS_SECONDS", 0.0)
    write_data(tmp_path / "data.jsonl")
    assert main(["-m", *settings(tmp_path, "bitfit", "frozen=false", "hydra/launcher=local")]) == 0
    err = capsys.readouterr().err
    assert "1 run, 1 at a time" in err
    (log,) = tmp_path.rglob("1.log")
    shown = {line.rpartition(": ")[2] for line in err.splitlines() if line.startswith("  method=")}
    assert len(shown & {line.rpartition(": ")[2] for line in log.read_text().splitlines()}) > 1


def test_a_second_ctrl_c_kills_what_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that ignore the first request, started by the launcher in place of cells."""
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    launcher = LocalLauncher(n_jobs=2, gpus=[], cells_per_gpu=1, threads=1)
    launcher.folder, launcher.stop_on_error = tmp_path, False
    monkeypatch.setattr(LocalLauncher, "make_folder", lambda self: tmp_path)
    start = subprocess.Popen

    def deaf(command: list[str], **named: object) -> subprocess.Popen[bytes]:
        return start([sys.executable, "-c", stubborn], **named)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(subprocess, "Popen", deaf)

    def press_twice() -> None:
        while [log.read_text().strip() for log in tmp_path.glob("*.log")] != ["deaf"] * 2:
            time.sleep(0.05)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    pressing, begun = threading.Thread(target=press_twice, daemon=True), time.monotonic()
    pressing.start()
    try:
        returns = launcher.launch([[*CELL, f"seed={seed}"] for seed in (1, 2, 3)], 0)
    finally:
        pressing.join()
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 50
    outcomes = [one.return_value for one in returns]
    assert [outcome.status for outcome in outcomes] == ["failed", "failed", "not run"]
    assert all("was killed by SIGKILL" in outcome.line for outcome in outcomes[:2])


def test_cells_are_called_by_what_tells_them_apart() -> None:
    shared = ["data=local", "protocol=standard"]
    cells = [
        [*shared, "method=lora", "task=dart", "seed=1", "data.path=a", "output_dir=x"],
        [*shared, "method=lora", "task=samsum", "seed=1", "data.path=b", "output_dir=x"],
        [*shared, "method=lora", "task=samsum", "seed=1", "data.path=b", "train.learning_rate=0.1"],
    ]
    assert labels_of(cells) == ["task=dart", "task=samsum", "task=samsum train.learning_rate=0.1"]
    assert labels_of(cells[:1]) == ["method=lora task=dart seed=1"]
    assert labels_of([cells[0], cells[0]]) == ["method=lora task=dart seed=1"] * 2
