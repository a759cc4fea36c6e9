"""The command line as a user meets it: one line and status 2 for what they can mend, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssm_tune.cli import main
from ssm_tune.commands import SUBCOMMANDS
from ssm_tune.utils.files import read_jsonl

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
CELL = ["method=state_offset_y", "task=samsum", "model=tiny", "data=sample"]
QUICK = ["train.max_steps=2", "decode.num_beams=1", "decode.max_new_tokens=2", "frozen=false"]


def ssm_tune(*arguments: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ssm_tune", *arguments]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout)


def in_process(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main(arguments)
    return status, *capsys.readouterr()


WRONG = [
    ([*CELL, "+model.sise=3"], "there is no setting 'model.sise'"),
    ([*CELL, "+train.foo=3"], "there is no setting 'train.foo'"),
    (["method=bitfit", "task=samsum", "method.rank=3"], "no setting 'method.rank': "),
    (["method=lora", "task=samsum", "task.revison=x"], "no setting 'task.revison': did you mean task.revision"),
    (["method=lora", "task=samsum", "train=5"], "train is a group of settings"),
    (["method=lora", "task=samsum", "model=5"], "cannot compose the settings"),
    ([*CELL, "method.learning_rate=inf"], "method.learning_rate must be a positive number, got inf"),
    ([*CELL, "+method.foo=3"], "unexpected keyword argument 'foo'"),
    (["method=lora", *CELL[1:], "method.targets=[dt_proj,q_proj]"], "'q_proj' matches no projection"),
    (["method=lora", *CELL[1:], "method.targets=dt_proj"], "method.targets must be a list"),
    ([*CELL, "decode.length_penalty=11"], "decode.length_penalty must be a number from -10 to 10"),
    (
        [*CELL[:2], "data=sample", "model=random", "model.tokenizer=tiny", "model.seed=abc"],
        "model.seed must be a whole",
    ),
    ([*CELL[:2], "data=sample", "model=local", "model.path=5"], "model.path must be text, got 5"),
    (["method=state_ofset", "task=samsum"], "no method 'state_ofset': did you mean state_offset"),
    (["method=lora", "task=samsumm"], "no task 'samsumm': did you mean samsum"),
    (["method=lora", "task=samsum", "model=mamba_130"], "no model 'mamba_130': did you mean mamba_130m"),
    (["method=lora", "task=samsum", "data=smaple"], "no data 'smaple': did you mean sample"),
    (["task=samsum"], "method is not given: add method=NAME, one of additional_scan"),
    (["method=lora", "task=samsum", "train.epoch=3"], "no setting 'train.epoch': did you mean train.epochs"),
    (["method=lora", "task=samsum", "method.rnk=3"], "no setting 'method.rnk': did you mean method.rank"),
    (["method=lora", "task=samsum", "+extra=3"], "no setting 'extra'"),
    (["method=lora", "task=samsum", "train.epochs=many"], "train.epochs must be a whole number, got 'many'"),
    (["method=lora", "task=samsum", "force=maybe"], "force must be true or false, got 'maybe'"),
    (["method=lora", "task=samsum", "train.learning_rate=-1"], "train.learning_rate must be a positive number"),
    (["method=lora", "task=samsum", "train.batch_size=0"], "train.batch_size must be at least 1, got 0"),
    (["method=lora", "task=samsum", "decode.num_beams=0"], "decode.num_beams must be a whole number of at least 1"),
    (["bench", "step"], "python -m benchmarks"),
    (["method=lora", "task=samsum", "protocol=mine"], "protocol must be one of auto, paper, standard"),
    (["method=lora", "task=samsum", "seed=-1"], "seed must be a whole number from 0"),
    (["method=lora", "task=samsum", "data=local"], "add data.path=DIR"),
    (["method=lora", "task=samsum", "data.path=x"], "data.path is only read with data=local"),
    (
        ["method=lora", "task=samsum", "data.check=off"],
        "data.check=off is only read with data=local, not with data=hub",
    ),
    ([*CELL, "data.check=off"], "data.check=off is only read with data=local, not with data=sample"),
    ([*CELL, "data.name=mine"], "data.name is for stand-ins"),
    ([*CELL, "checkpoint.minutes=0"], "checkpoint.minutes must be a positive number, got 0"),
    ([*CELL, "checkpoint.steps=0"], "checkpoint.steps must be at least 1, got 0"),
    (["method=lora", "task=samsum", "data.name=mine"], "data.name is for stand-ins"),
    ([*CELL[:3], "data=local", "data.path=x", "data.name=mine"], "data.name is for stand-ins"),
    (["method=lora", "task=samsum", "bad argument"], "cannot read the argument 'bad argument'"),
    (["tabel"], "no subcommand 'tabel': did you mean table"),
    (["modle=tiny"], "did you mean model?"),
    ([*CELL[:2], "modle=tiny"], "did you mean model?"),
    (["lora", "glue_rte"], "ssm-tune method=lora task=glue_rte"),
    (["-m", "lora", "task=glue_rte"], "ssm-tune -m method=lora task=glue_rte"),
    (["lroa"], "method=lora"),
    (["plan", "lora"], "method=lora"),
    (["method", "=", "lora"], "method=lora"),
    (["task=samsum", "method=", "lora"], "method=lora"),
    (["task=samsum", "method", "=lora"], "method=lora"),
    (["--method", "lora"], "method=lora"),
    ([*CELL, "--batch-size=8"], "train.batch_size=8"),
    ([*CELL, "--foo"], "no option --foo"),
    ([*CELL, "seed=1,2"], "add -m"),
    (["data", "shwo"], "did you mean show"),
    (["data", "show", "samsum", "--data", "smaple"], "did you mean sample"),
    (["compare", "lora"], "two runs or methods"),
    (["table", "--fromat", "json"], "--fromat"),
    ([*CELL, "tuned=./file.yaml"], "tuned takes a name, not a path; there are acl2025"),
    (["method=lora", *CELL[1:], "method.targets=q_proj"], "in_proj.dt, out_proj"),
    ([*CELL, "method.learning_rate=fast"], "method.learning_rate must be a positive number, got 'fast'"),
    ([*CELL, "train.batch_size=100000"], "train.batch_size=100000 is more than"),
    ([*CELL, "splits.report=val"], "'val' would both pick the epoch and be reported"),
    ([*CELL, "splits.report=dev"], "sample has no split 'dev'"),
    ([*CELL, "model.dtype=int8"], "model.dtype must be auto or one of"),
    ([*CELL[:2], "data=sample", "model=local"], "add model.path=DIR"),
    ([*CELL[:2], "data=sample", "model=local", "model.path=nowhere"], "nowhere: no such folder"),
    ([*CELL[:3], "data=local", "data.path=nowhere"], "nowhere/train.json is missing"),
    (["score", "nowhere"], "nowhere does not exist"),
    (["generate", "--adapter", "nowhere", "--prompt", "x"], "nowhere is no adapter: adapter.json is missing"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(arguments[-1:]) for arguments, _ in WRONG])
def test_what_the_user_can_mend_is_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = in_process(arguments, capsys)
    assert status == 2
    assert said in err
    assert err.endswith("\n")
    lines = [line for line in err.splitlines() if not line.startswith("starting ")]  # which comes before PyTorch
    assert len(lines) == 1
    assert lines[0].startswith("ssm-tune: ")
    assert out == ""
    assert not list(tmp_path.rglob("record.json"))


def test_cuda_without_a_device_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    status, _, err = in_process([*CELL, "device=cuda", f"output_dir={tmp_path}"], capsys)
    assert status == 2
    assert "device=cuda: PyTorch sees no CUDA device here" in err


def test_an_output_folder_that_cannot_be_made_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = in_process([*CELL, f"output_dir={tmp_path / 'file' / 'results'}"], capsys)
    assert status == 2
    assert "output_dir: cannot make" in err


def test_the_hub_out_of_reach_says_how_to_go_on(tmp_path: Path) -> None:
    done = ssm_tune("method=lora", "task=samsum", "model=tiny", "data=hub", cwd=tmp_path)
    assert done.returncode == 2
    assert "the hub cannot be reached" in done.stderr
    assert "data=sample model=tiny" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [[], *([name] for name in SUBCOMMANDS), ["data", "show"], ["data", "fetch"]])
def test_help_of_each_command(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = in_process([*command, "--help"], capsys)
    assert (status, err) == (0, "")
    assert " ".join(["ssm-tune", *command]) in out
    assert "%%" not in out


def test_help_behind_settings_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process(["method=lora", "--help"], capsys) == in_process(["--help"], capsys)


def test_help_names_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = in_process(["--help"], capsys)
    assert status == 0
    for name in ("state_offset_y", "samsum", "mamba_1b4", "sample", "score", "table", "generate"):
        assert name in out


def test_a_cell_its_record_a_second_call_and_what_can_be_done_with_it(tmp_path: Path) -> None:
    first = ssm_tune(*CELL, *QUICK, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    last = first.stdout.splitlines()[-1]
    assert last.startswith("record: results/runs/samsum/sample-tiny-state_offset_y-standard-s42-")
    path = tmp_path / last.removeprefix("record: ")
    record = json.loads(path.read_text())
    assert record["status"] == "completed"
    assert record["cell"]["data"] == "sample"
    assert record["splits"] == {"train": "train", "selection": "val", "report": "test", "selected_on_report": False}
    assert record["parameters"]["trainable"] == 6 * 256
    assert {part.name for part in path.parent.iterdir()} == {
        "record.json", "predictions.jsonl.gz", "steps.jsonl.gz", "adapter"
    }  # fmt: skip

    rows = read_jsonl(path.parent / "predictions.jsonl.gz")
    assert "Omar" not in json.dumps([{**row, "output": ""} for row in rows])

    again = ssm_tune(*CELL, *QUICK, cwd=tmp_path)
    assert again.returncode == 0
    assert "done already" in again.stderr
    assert again.stdout.splitlines()[-1] == last

    scored = ssm_tune("score", str(path.parent), cwd=tmp_path)
    assert scored.returncode == 0, scored.stdout + scored.stderr

    table = ssm_tune("table", "--figure", "figure.png", cwd=tmp_path)
    assert table.returncode == 0, table.stderr
    assert "state_offset_y" in table.stdout
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

    prompt = "Anna: Hi!\nBen: Hello!"
    answer = ssm_tune("generate", "--adapter", str(path.parent), "--prompt", prompt, "--num-beams", "1", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""


def test_a_multirun_goes_on_past_a_cell_that_fails(tmp_path: Path) -> None:
    cells = ["-m", *CELL, *QUICK, "train.batch_size=100000,4"]  # which takes the data to know
    done = ssm_tune(*cells, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.count("record: ") == 1
    assert "run 1 failed: train.batch_size=100000" in done.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["method=lora,lroa", *CELL[1:]], ("run 2", "lroa", "lora", "1 of 2")),
        (["method=lora,bitfit", *CELL[1:], "method.learning_rate=1e-3,0"], ("method.learning_rate", "2 of 4")),
        (["method=lora", *CELL[1:], "method.targets=[dt_proj],[q_proj]"], ("q_proj", "in_proj", "1 of 2")),
        (["method=lora,bitfit", *CELL[1:], "method.rank=2"], ("bitfit has no option 'rank'", "1 of 2")),
        (["method=bitfit,lora", *CELL[1:3], "data=local", "data.path=no"], ("data.path=no",)),
        (["method=bitfit", *CELL[1:2], "data=sample", "model=local", "model.path=no", "seed=1,2"], ("no such folder",)),
    ],
)
def test_all_runs_are_checked_before_the_first_begins(
    settings: list[str], said: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, err = in_process(["-m", *settings, *QUICK, f"output_dir={tmp_path}"], capsys)
    assert (status, out) == (2, "")
    assert len([line for line in err.splitlines() if not line.startswith("checking ")]) == 1
    for word in said:
        assert word in err
    assert not list(tmp_path.rglob("*"))


@pytest.mark.slow
def test_ctrl_c_saves_the_state_and_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ssm_tune", *CELL, "frozen=false"]
    # a shell's background job ignores Ctrl-C, and so would a child of the tests that run in one
    child = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert child.stderr is not None
    for line in child.stderr:
        if "trains" in line:
            break
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    rest = child.stderr.read()
    assert child.wait(60) == 130
    assert "the same command resumes from there" in rest
    assert "Traceback" not in rest
    assert not list(tmp_path.rglob("record.json"))
    assert not list(tmp_path.rglob("predictions*"))
    assert len(list(tmp_path.rglob("checkpoints/*"))) == 1


@pytest.mark.parametrize("name", ["data", "score"])
def test_ctrl_c_where_no_cell_runs(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"ssm_tune.commands.{name}.main", interrupted)
    assert in_process([name], capsys) == (130, "", "\ninterrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_under_stdout_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ssm_tune", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "No space left" in done.stderr
