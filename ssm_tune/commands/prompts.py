"""What a user asks a tuned model: one prompt, or a file of them, in the form of its task. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.experiment.finished import AskedTask
from ssm_tune.tasks.base import SEPARATOR, Example, text_field
from ssm_tune.tasks.files import check_unicode, read_lines
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import read_jsonl


@dataclass(frozen=True)
class Prompt:
    """given: what the user wrote, a text or a row with fields. example: what the model reads."""

    given: str | dict[str, Any]
    example: Example


class PromptReader:
    """Turns texts and rows into prompts of a task; without one, or with ``raw``, they are taken as they are typed."""

    def __init__(self, asked: AskedTask | None, raw: bool) -> None:
        self.asked = None if raw else asked
        self.fields = self.asked.fields if self.asked else ("prompt",)

    def text(self, text: str, place: str) -> Prompt:
        r"""A prompt from a text, in which \n is a line's end; of several fields, a JSON object.

        Raises UserError, with ``place``.
        """
        if not text.strip():
            raise UserError(f"{place} is empty")
        if len(self.fields) == 1:
            text = text.replace("\\n", "\n")
            if self.asked is not None:  # the separator may be typed, as it stands at the end in training
                text = text.rstrip("\n").removesuffix(SEPARATOR)
            return Prompt(text, self._example({self.fields[0]: text}, place))
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            form = json.dumps(dict.fromkeys(self.fields, "..."))
            task = self.asked.task.name if self.asked else ""
            raise UserError(f"{place}: {task} takes {len(self.fields)} texts, as a JSON object: '{form}'")
        return self.row(row, place)

    def row(self, row: dict[str, Any], place: str) -> Prompt:
        """A prompt from a row with the task's fields; its other keys are left aside. Raises UserError."""
        check_unicode(row, place)
        given = {key: row[key] for key in ("id", *self.fields) if key in row}
        for field in self.fields:
            if field not in row:
                raise UserError(f"{place}: no key {field!r}; a prompt here has {', '.join(map(repr, self.fields))}")
        return Prompt(given, self._example(given, place))

    def file(self, path: Path) -> list[Prompt]:
        """A .jsonl file's rows, or another file's lines. Raises UserError."""
        if path.suffix.lower() == ".jsonl":
            found = [self.row(row, f"{path} line {at}") for at, row in enumerate(read_jsonl(path), start=1)]
        else:
            found = [self.text(line, f"{path} line {at}") for at, line in enumerate(read_lines(path), start=1)]
        if not found:
            raise UserError(f"{path} is empty: one prompt a line is expected")
        return found

    def _example(self, row: Mapping[str, Any], place: str) -> Example:
        try:
            if self.asked is not None:
                return self.asked.task.example_of(row, self.asked.protocol)
            return Example("", text_field(row, "prompt"), "", ())
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
