"""Every command of the README and the docs: its settings compose and its flags exist; those that can are run as typed,
in one folder, one after the other, as a reader of a fresh clone would."""

from __future__ import annotations

import io
import json
import re
import shlex
from contextlib import redirect_stderr
from importlib import import_module
from pathlib import Path

import pytest
from helpers.quick_runs import write_data

from ssm_tune.cli import main
from ssm_tune.commands import SUBCOMMANDS
from ssm_tune.config.compose import compose
from ssm_tune.records.where import shipped_dir
from ssm_tune.sweeps.sweep_file import read_sweep

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = "docs/extending.md"
"""Its commands ask for files that it has the reader write: tests/test_extending.py runs them."""
COMMAND = re.compile(r"^ *(?:ssm-tune|torchrun .* -m ssm_tune) ((?:.*\\\n)*.*)$", re.MULTILINE)
LIMITS = ("splits.limit=4", "train.max_steps=2", "decode.num_beams=1", "decode.max_new_tokens=4", "device=cpu")
"""What makes a run of the page short; nothing else of its line is changed."""


def commands() -> list[tuple[str, str]]:
    """Of every page its command lines, comments and the dots of what is left open taken out."""
    found = []
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        for match in COMMAND.finditer(page.read_text(encoding="utf-8")):
            line = re.sub(r"\s+#.*", "", match[1].replace("\\\n", " "))
            found.append((name, re.sub(r"\s\.\.\.$", "", " ".join(line.split()))))
    return [(name, line) for name, line in dict.fromkeys(found) if name != ELSEWHERE]


def words_of(line: str) -> list[str]:
    """As a shell parts them, but for the brackets and braces that the pages leave unquoted."""
    if "parts=[" in line:
        start, rest = line.split("method.parts=", 1)
        return [*shlex.split(start), f"method.parts={rest}"]
    return shlex.split(line)


def runs(line: str) -> bool:
    """Whether it runs here: without a network, a GPU, SLURM, hours, or files that are not the reader's."""
    words = words_of(line)
    if words[0] in ("table", "report", "status", "compare", "show"):
        return not re.search(r"FILE\.|DIR|[AB]$|/A ", line)
    if words[0] in ("generate", "evaluate", "export"):
        return "results/runs" in line
    return words[0] not in ("plan", "data", "doctor", "score") and (
        {"model=tiny", "data=sample"} <= set(words) or ("model=tiny" in words and "FILE.jsonl" in line)
    )


def checked(words: list[str]) -> None:
    """Raises for settings that do not compose or flags that are not there."""
    if words[0] == "data" and len(words) > 1:
        module = import_module("ssm_tune.commands.data")
        parser = module._fetch_parser() if words[1] == "fetch" else module._show_parser()
        parser.parse_intermixed_args(words[2:])
    elif words[0] in SUBCOMMANDS:
        import_module(f"ssm_tune.commands.{words[0]}")._parser().parse_intermixed_args(words[1:])
    elif words[0] == "-m":
        planned = read_sweep(words[1:]).runs
        for run in (planned[0], planned[-1]):
            compose(run.overrides)
    else:
        task = [] if any(word.startswith("task=") for word in words) else ["task=samsum"]
        compose([*words, *task])


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda value: value[:60])
def test_settings_compose_and_flags_exist(page: str, line: str) -> None:
    if not line.startswith("--completion"):
        checked(words_of(line))


def test_a_wrong_setting_or_flag_would_be_found() -> None:
    for line in ("method=lorra task=samsum", "table --resullts shipped", "-m method=lora,nope task=dart", "lora"):
        with pytest.raises(Exception), redirect_stderr(io.StringIO()):  # noqa: B017, PT011 - whichever says it
            checked(words_of(line))


def filled(words: list[str], folder: Path) -> list[str]:
    """The words with what the page leaves to the reader: files of the wanted kind, and runs that came before."""
    found = []
    for word in words:
        named = word.replace("OTHER.jsonl", "FILE.jsonl")
        if word.startswith("results/runs/"):
            task = word.split("/")[2]
            done = sorted((folder / "results" / "runs" / task).glob("*lora*/record.json"))
            named = str(done[0].parent.relative_to(folder))
        elif named.endswith("FILE.jsonl"):
            kind = "prompts" if "--prompts" in words else "texts" if "task=text2text" in words else "labels"
            named = named.replace("FILE.jsonl", f"{kind}.jsonl")
        elif word in ("DIR", "FILE"):
            named = f"new-{len(list(folder.iterdir()))}{'.yaml' if word == 'FILE' else ''}"
        found.append(named)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not (shipped_dir() / "runs").is_dir(), reason="the shipped records lie in a checkout alone")
def test_what_can_run_runs_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "labels.jsonl", 40)
    rows = [{"input": f"say {n}", "target": f"word {n}"} for n in range(40)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pair = {"sentence1": "It rains.", "sentence2": "It is wet."}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(pair) + "\n")
    lines = [(page, line) for page, line in commands() if runs(line)]
    # runs first, so that what reads them finds some
    lines.sort(key=lambda one: words_of(one[1])[0] in SUBCOMMANDS)
    failed = []
    for page, line in lines:
        words = filled(words_of(line), tmp_path)
        trains = words[0] not in SUBCOMMANDS or words[0] == "search"
        status = main([*words, *(LIMITS if trains else ())])
        if status not in ((0, 1) if words[0] == "status" else (0,)):
            failed.append(f"{page}: {line}: {status}: {capsys.readouterr().err[-300:]}")
    assert not failed, "\n".join(failed)
    assert len(lines) >= 15
