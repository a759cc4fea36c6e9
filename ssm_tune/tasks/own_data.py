"""The user's own data: JSON lines, in one file that is split, or in a folder with one file per split."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.tasks.base import END, Dataset, Example, Roles, Task
from ssm_tune.tasks.files import check_unicode
from ssm_tune.tasks.splits import hold_out
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import read_jsonl, user_path

SPLITS = ("train", "val", "test")
FEWEST = 10
"""Fewest lines that can be split."""


@dataclass(frozen=True)
class Line:
    """One line of a file. place: its file and number, for an error; id: its "id", else its number."""

    place: str
    id: str
    row: dict[str, Any]

    def text(self, key: str) -> str:
        """A text that must be there. Raises UserError where it is missing, another thing, or holds END."""
        value = self.row.get(key)
        if key not in self.row:
            there = ", ".join(map(repr, self.row)) or "nothing"
            raise UserError(f"{self.place}: no key {key!r}; it has {there[:200]}")
        if not isinstance(value, str):
            raise UserError(f"{self.place}: {key!r} must be a text, got {type(value).__name__}")
        return self.checked(value, key)

    def checked(self, text: str, key: str) -> str:
        """The text itself. Raises UserError where it holds the token that ends every answer."""
        if END in text:
            raise UserError(f"{self.place}: {key!r} holds {END}, which marks the end of an answer")
        return text


class OwnData(Task):
    """Base of the tasks for the user's own data: reading and splitting the lines; protocol=standard alone."""

    def read(self, data: dict[str, Any], protocol: str, group: Callable[[Line], str]) -> dict[str, list[Line]]:
        """The lines of train, val and test.

        One file, or a train.jsonl alone, is cut; of a folder with a test and no val, val is cut from train. Lines of
        one ``group`` (the same input) stay together then, so that nothing that is scored was trained on.

        Raises UserError for protocol=paper, a missing or empty file, a line that is no JSON object, a duplicate
        id, or too few lines to cut.
        """
        if protocol == "paper":
            self.published_roles()
        if data["check"] == "counts":
            raise UserError("data.check=counts: data of your own have no published counts; leave data.check out")
        path = user_path(data["path"])
        splits = {split: _lines(file) for split, file in _files(path).items()}
        if len(splits) == 1:
            splits["train"], splits["test"] = _cut(splits["train"], group, path)
        if "val" not in splits and "test" in splits:
            splits["train"], splits["val"] = _cut(splits["train"], group, path)
        return {split: splits[split] for split in SPLITS if split in splits}

    @abstractmethod
    def dataset(self, data: dict[str, Any], lines: dict[str, list[Line]]) -> Dataset:
        """The data set of the lines of each split. Raises UserError for lines that do not fit the task."""

    def to_score(self, data: dict[str, Any], protocol: str, split: str | None) -> tuple[Dataset, str]:
        """As ``Task.to_score``; of a file all lines, unless a split is named, and of a folder that split's file alone,
        by default test.jsonl, else val.jsonl."""
        if protocol == "paper":
            self.published_roles()
        path = user_path(data["path"])
        if split is None and not path.is_dir():
            return self.dataset(data, {"all": _lines(path)}), "all"
        found = [one for one in ((split,) if split else ("test", "val")) if (path / f"{one}.jsonl").is_file()]
        if not found:
            return super().to_score(data, protocol, split)
        return self.dataset(data, {found[0]: _lines(path / f"{found[0]}.jsonl")}), found[0]

    def published_roles(self) -> Roles:
        raise UserError("protocol=paper repeats the official code, which has no such task: leave protocol=standard")


def _files(path: Path) -> dict[str, Path]:
    """The file of each split that has one; a file alone is all "train"."""
    if not path.is_dir():
        return {"train": path}
    if not (path / "train.jsonl").exists():
        raise UserError(f"{path / 'train.jsonl'} is missing: the folder holds train.jsonl, val.jsonl and test.jsonl")
    for other in sorted(path.glob("*.jsonl")):
        if other.stem not in SPLITS:
            raise UserError(f"{other} is none of train.jsonl, val.jsonl and test.jsonl: rename it, or move it away")
    return {split: path / f"{split}.jsonl" for split in SPLITS if (path / f"{split}.jsonl").exists()}


def _lines(path: Path) -> list[Line]:
    rows = read_jsonl(path)
    if not rows:
        raise UserError(f"{path} is empty: one line per example is expected")
    lines: list[Line] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        place = f"{path} line {number}"
        check_unicode(row, place)
        given = row.get("id", number)
        if isinstance(given, bool) or not isinstance(given, str | int):
            raise UserError(f"{place}: 'id' must be a text or a whole number, got {given!r:.80}")
        if str(given) in seen:
            raise UserError(f"{place}: duplicate id {str(given)[:80]!r}, first in line {seen[str(given)]}")
        seen[str(given)] = number
        lines.append(Line(place, str(given), row))
    return lines


def _cut(lines: list[Line], group: Callable[[Line], str], path: Path) -> tuple[list[Line], list[Line]]:
    """Two parts: what is left, and a tenth (at most 1,000), drawn by a fixed seed."""
    if len(lines) < FEWEST:
        raise UserError(
            f"{path}: {len(lines)} training lines are too few to cut a part from ({FEWEST} at least): give a folder "
            "with train.jsonl, val.jsonl and test.jsonl"
        )
    by_id = {line.id: line for line in lines}
    left, aside = hold_out([Example(line.id, "", "", (), group=group(line)) for line in lines], f"{path}: ")
    return [by_id[example.id] for example in left], [by_id[example.id] for example in aside]


def as_list(name: str, value: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    """A setting that is one name or a list of names, each of ``known`` and there once. Raises UserError."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given or len(set(map(str, given))) != len(given):
        raise UserError(f"{name} must be a name, or a list of different names, of {', '.join(known)}; got {value!r}")
    for one in given:
        if one not in known:
            raise UserError(f"{name}: there is no {one!r}; there are {', '.join(known)}")
    return tuple(given)
