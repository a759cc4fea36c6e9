"""The token cache: the same tokens as without it, kept once, and built again where it is damaged."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.toy_tasks import TASK, Labelling, Writing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssm_tune.data import token_cache as tokens
from ssm_tune.data import tokenization as encoding
from ssm_tune.data.token_cache import TokenizedDataset, concatenated, tokenized_training_set
from ssm_tune.data.tokenization import tokenize_prompts, tokenize_training
from ssm_tune.models.tokenizer import Tokenizer, load_tokenizer
from ssm_tune.tasks.base import END, Example
from ssm_tune.utils.errors import UserError

TINY = load_tokenizer("tiny")
EXAMPLES = [Example(str(i), f"Ann has {i} cats###", f"{i} cats", ("x",), prefix="Say: ") for i in range(9)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSM_TUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many examples each tokenisation had."""
    counts: list[int] = []

    def counted(examples: list[Example], *arguments: Any) -> Any:
        counts.append(len(examples))
        return tokenize_training(examples, *arguments)

    monkeypatch.setattr(tokens, "tokenize_training", counted)
    return counts


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=9), chunk=st.integers(1, 5))
def test_tokens_of_the_cache_are_those_of_the_tokenizer(
    rows: list[tuple[str, str, str]], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the tokenizer alone, one text at a time; whatever is written first and read later."""
    monkeypatch.setattr(encoding, "CHUNK", chunk)
    examples = [Example(str(i), prompt, target, (), prefix) for i, (prefix, prompt, target) in enumerate(rows)]
    prompts = [TINY.encode(prefix) + TINY.encode(prompt) for prefix, prompt, _ in rows]
    completions = [TINY.encode(target + END) for _, _, target in rows]
    assert tokenize_prompts(examples, TINY) == prompts
    for _ in range(2):  # made, then read
        found = tokenized_training_set(examples, TASK, TINY)
        assert [one.tokens for one in found] == [a + b for a, b in zip(prompts, completions, strict=True)]
        assert [one.labels for one in found] == [len(completion) for completion in completions]
        assert found.lengths() == [len(one.tokens) for one in found]


def test_it_is_a_sequence_of_plain_numbers() -> None:
    found = tokenized_training_set(EXAMPLES, TASK, TINY)
    plain = list(tokenize_training(EXAMPLES, TASK, TINY))
    assert len(found) == 9
    assert found[-1] == plain[-1]
    assert found[2:7:2] == plain[2:7:2]
    assert isinstance(found[0].tokens, list)
    assert {type(number) for number in found[0].tokens} == {int}
    for index in (9, -10):
        with pytest.raises(IndexError):
            found[index]
    assert len(concatenated(iter([]))) == 0


def test_a_split_is_tokenised_once(calls: list[int], cache: Path) -> None:
    first = tokenized_training_set(EXAMPLES, TASK, TINY)
    again = tokenized_training_set(EXAMPLES, TASK, TINY)
    assert calls == [9]
    assert list(again) == list(first)
    assert isinstance(again.tokens, np.memmap)
    assert len(list(cache.iterdir())) == 1


def test_whatever_changes_tokens_changes_the_key(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Writing):
        def completion(self, example: Example) -> str:
            return example.target + "." + END

    def changed(**fields: str) -> list[Example]:
        return [*EXAMPLES[:-1], dataclasses.replace(EXAMPLES[-1], **fields)]

    other: Any = Other()
    tokenized_training_set(EXAMPLES, TASK, TINY)
    for examples in (changed(prefix=""), changed(prompt="b###"), changed(target="c"), EXAMPLES[::-1], EXAMPLES[1:]):
        tokenized_training_set(examples, TASK, TINY)
    tokenized_training_set(EXAMPLES, other, TINY)
    assert len(calls) == 7
    tokenized_training_set(changed(id="other", references=("y",)), TASK, TINY)  # neither is ever a token
    assert len(calls) == 7
    monkeypatch.setattr(tokens, "VERSION", tokens.VERSION + 1)
    tokenized_training_set(EXAMPLES, TASK, TINY)
    assert len(calls) == 8


def test_another_tokenizer_has_its_own_entry(calls: list[int], tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(Path(TINY._file).read_bytes() + b"\n")
    tokenized_training_set(EXAMPLES, TASK, TINY)
    tokenized_training_set(EXAMPLES, TASK, Tokenizer(file))
    assert len(calls) == 2


def truncate(folder: Path, name: str) -> None:
    file = folder / f"{name}.npy"
    os.truncate(file, file.stat().st_size - 4)


def replace(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        array = np.load(folder / f"{name}.npy")
        np.save(folder / f"{name}.npy", change(array))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: truncate(folder, "tokens"),
        lambda folder: truncate(folder, "ends"),
        lambda folder: (folder / "labels.npy").unlink(),
        lambda folder: (folder / "labels.npy").write_bytes(b""),
        lambda folder: (folder / "ends.npy").write_bytes(b"nothing"),
        replace("tokens", lambda array: array[:-1]),
        replace("tokens", lambda array: array.astype(np.int64)),
        replace("tokens", lambda array: array.reshape(1, -1)),
        replace("tokens", lambda array: array + 100_000),
        replace("tokens", lambda array: -array),
        replace("tokens", lambda array: np.where(np.arange(len(array)) % 7 == 0, 5, array).astype(array.dtype)),
        lambda folder: (folder / "sha256.json").unlink(),
        lambda folder: (folder / "sha256.json").write_bytes(b"[" * 100_000),
        replace("ends", lambda array: array[:-1]),
        replace("ends", lambda array: array[::-1].copy()),
        replace("labels", lambda array: array + 1000),
        replace("labels", lambda array: array[1:]),
    ],
)
def test_a_damaged_entry_is_made_anew(
    damage: Callable[[Path], None], cache: Path, calls: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    expected = list(tokenized_training_set(EXAMPLES, TASK, TINY))
    (folder,) = cache.iterdir()
    damage(folder)
    with caplog.at_level(logging.WARNING):
        assert list(tokenized_training_set(EXAMPLES, TASK, TINY)) == expected
    (message,) = caplog.messages
    assert "is damaged" in message
    assert "\n" not in message
    assert list(tokenized_training_set(EXAMPLES, TASK, TINY)) == expected
    assert calls == [9, 9]
    assert list(cache.iterdir()) == [folder]  # nothing is left beside it


def test_without_a_writable_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SSM_TUNE_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        found = tokenized_training_set(EXAMPLES, TASK, TINY)
    assert list(found) == list(tokenize_training(EXAMPLES, TASK, TINY))
    (message,) = caplog.messages
    assert "not kept for the next run" in message


def test_a_full_disk_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert len(tokenized_training_set(EXAMPLES, TASK, TINY)) == 9
    assert list(cache.iterdir()) == []


def test_what_a_killed_process_left_is_removed_when_it_is_old(cache: Path) -> None:
    left, at_work = cache / ".0123456789abcdef.0.tmp", cache / ".0123456789abcdef.1.tmp"
    for folder in (left, at_work):
        folder.mkdir(parents=True)
    os.utime(left, (0, 0))
    tokenized_training_set(EXAMPLES, TASK, TINY)
    assert not left.exists()
    assert at_work.exists()


def test_the_loser_of_a_race_takes_the_winners_entry(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process puts its entry into place between our look and our rename."""
    write = tokens._write

    def late(folder: Path, sequences: TokenizedDataset, damaged: bool) -> None:
        write(folder, sequences, damaged)
        inode = (folder / "tokens.npy").stat().st_ino
        write(folder, sequences, damaged)
        assert (folder / "tokens.npy").stat().st_ino == inode

    monkeypatch.setattr(tokens, "_write", late)
    assert list(tokenized_training_set(EXAMPLES, TASK, TINY)) == list(tokenize_training(EXAMPLES, TASK, TINY))
    assert len(list(cache.iterdir())) == 1


AT_ONCE = """
import sys, time, hashlib
sys.path.insert(0, "tests")
from helpers.toy_tasks import TASK
from ssm_tune.models.tokenizer import load_tokenizer
from ssm_tune.tasks.base import Example
from ssm_tune.data.token_cache import tokenized_training_set
assert "torch" not in sys.modules
TINY = load_tokenizer("tiny")
examples = [Example(str(i), f"Ann has {i} cats###", f"{i} cats", ()) for i in range(3000)]
while time.time() < float(sys.argv[1]):
    pass
for _ in range(3):
    found = tokenized_training_set(examples, TASK, TINY)
    print(hashlib.sha256(found.tokens.tobytes() + found.ends.tobytes() + found.labels.tobytes()).hexdigest())
"""


def test_processes_at_once(cache: Path) -> None:
    import time

    begin = str(time.time() + 2)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "error", "-c", AT_ONCE, begin]
    processes = [
        subprocess.Popen(command, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)
    ]
    outputs = [process.communicate(timeout=180) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert [err for _, err in outputs] == ["", "", ""]
    assert len({line for out, _ in outputs for line in out.split()}) == 1
    assert len(list(cache.iterdir())) == 1


def test_an_answer_of_several_tokens_is_refused_before_anything_is_kept(cache: Path) -> None:
    task: Any = Labelling()
    good = [dataclasses.replace(one, target="1") for one in EXAMPLES]
    assert {one.labels for one in tokenized_training_set(good, task, TINY)} == {1}
    with pytest.raises(UserError, match="every label is one token"):
        tokenized_training_set([*good, dataclasses.replace(good[0], target="entailment or not")], task, TINY)
    assert len(list(cache.iterdir())) == 1
