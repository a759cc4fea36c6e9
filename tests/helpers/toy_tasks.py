"""The least of a task that tokenization asks for: one that writes a text, one that names a label."""

from __future__ import annotations

from typing import Any

from ssm_tune.tasks.base import END, Example


class Writing:
    """The two things that encoding asks of a task."""

    name, mode = "some", "generate"

    def completion(self, example: Example) -> str:
        return example.target + END


class Labelling(Writing):
    mode = "classify"

    def completion(self, example: Example) -> str:
        return example.target

    def answer_choices(self, examples: list[Example]) -> tuple[str, ...]:
        return tuple({example.target for example in examples})


TASK: Any = Writing()
