"""The user's own data whose answers are labels: lines of JSON with "text" (and perhaps "text2") and "label"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from ssm_tune.metrics.classification import (
    METRICS,
    classification,
    classification_signature,
    classification_statistics,
)
from ssm_tune.tasks.base import SEPARATOR, Dataset, Example, Scored, data_name, make_dataset, text_field
from ssm_tune.tasks.own_data import Line, OwnData, as_list
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.text import nfc


class Answers(NamedTuple):
    """Of an example's data set: the answers in the labels' order, the positive one, the labels, and the texts' keys."""

    choices: tuple[str, ...]
    positive: str | None
    labels: tuple[str, ...]
    fields: tuple[str, ...]


class Classify(OwnData):
    """An instruction, the text or the two texts, ``###`` after each; the answer is one token for the label.

    labels: the labels in the order of their answers; None for those of the training part, sorted. answers: "digits"
    (0, 1, ...), "words" (the labels themselves) or a list, one for each label; every one must be a single token of the
    tokenizer, which encoding the training part checks. metric: of metrics.classification, the first picks the epoch.
    positive: the label whose F1 is taken; of two labels the second where None.
    """

    mode: ClassVar[Literal["classify", "generate"]] = "classify"
    clean_up: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        instruction: str,
        labels: list[str | int] | None,
        answers: str | list[str | int],
        metric: str | list[str],
        positive: str | int | None,
    ) -> None:
        super().__init__(name)
        if not isinstance(instruction, str):
            raise UserError(f"task.instruction must be text, got {instruction!r}")
        self.instruction, self.metrics = instruction, as_list("task.metric", metric, METRICS)
        self.labels = None if labels is None else _distinct("task.labels", labels)
        words = isinstance(answers, str)
        if words and answers not in ("digits", "words"):
            raise UserError(f"task.answers must be digits, words or a list of words, got {answers!r}")
        self.answers: str | tuple[str, ...] = (
            answers if isinstance(answers, str) else _distinct("task.answers", answers)
        )
        self.positive = None if positive is None else str(positive)

    def load(self, data: dict[str, Any], protocol: str) -> Dataset:
        lines = self.read(data, protocol, group=lambda line: "\0".join(_texts(line)))
        self._check_labels({_label(line) for line in lines["train"]})
        return self.dataset(data, lines)

    def dataset(self, data: dict[str, Any], lines: dict[str, list[Line]]) -> Dataset:
        """The labels, where the settings have none, are those of the training part, or of all lines without one."""
        first = lines.get("train") or [line for given in lines.values() for line in given]
        answer = self._mapping(self.labels or tuple(sorted({_label(line) for line in first})))
        widths = {len(_texts(line)) for given in lines.values() for line in given}
        context = Answers(
            tuple(answer.values()), self._positive(answer), tuple(answer), ("text", "text2")[: max(widths)]
        )
        splits: dict[str, list[Example]] = {}
        for split, given in lines.items():
            splits[split] = []
            for line in given:
                if len(_texts(line)) != max(widths):
                    raise UserError(f"{line.place}: no key 'text2', which other lines have")
                if _label(line) not in answer:
                    expected = ", ".join(answer)
                    raise UserError(f"{line.place}: the label {_label(line)[:80]!r} is none of {expected[:200]}")
                said = answer[_label(line)]
                splits[split].append(Example(line.id, self._prompt(_texts(line)), said, (said,), context=context))
        origin = {"answers": ", ".join(f"{said} for {label}" for label, said in answer.items())}
        headline = (*self.metrics, "outside_labels")
        name, extra = data_name(data, self.name), str(self._positive(answer))
        return make_dataset(name, False, splits, self.metrics[0], headline, origin, extra)

    def _check_labels(self, there: set[str]) -> None:
        """Raise UserError where the labels of the training part are not those of the settings."""
        labels = self.labels or tuple(sorted(there))
        for label in labels:
            if label not in there:
                raise UserError(f"task.labels: no line of the training part has the label {label!r}")
        for label in sorted(there.difference(labels)):
            raise UserError(f"task.labels lacks {label!r}, which lines of the training part have")
        if len(labels) < 2:
            raise UserError(f"task={self.name}: all lines of the training part have the label {labels[0]!r}")

    def _mapping(self, labels: tuple[str, ...]) -> dict[str, str]:
        """The answer for each label."""
        if len(labels) < 2:
            raise UserError(
                f"task={self.name}: there is one label, {labels[0]!r}; name the others in task.labels=[...]"
            )
        if len(labels) != 2 and set(self.metrics) - {"accuracy"}:
            raise UserError(f"task.metric: f1 and matthews are for two labels, and these data have {len(labels)}")
        if self.positive is not None and self.positive not in labels:
            raise UserError(f"task.positive: {self.positive!r} is none of the labels {', '.join(labels)[:200]}")
        if isinstance(self.answers, tuple):
            answers: tuple[str, ...] = self.answers
        else:
            answers = labels if self.answers == "words" else tuple(str(digit) for digit in range(len(labels)))
        if len(answers) != len(labels):
            raise UserError(f"task.answers names {len(answers)} for {len(labels)} labels: {', '.join(labels)[:200]}")
        # many tokenizers give NFC back, and an answer counts only if it is the same to the character
        normalised = list(map(nfc, answers))
        if len(set(normalised)) < len(normalised):
            one, *others = (given for given in answers if normalised.count(nfc(given)) > 1)
            pair = f"{one!r} ({_code(one)}) and {others[0]!r} ({_code(others[0])})"
            raise UserError(
                f"task.answers: {pair} are one text in Unicode's "
                "normal form NFC, so predictions of them are the same; give others, or task.answers=digits"
            )
        return dict(zip(labels, normalised, strict=True))

    def _positive(self, answer: dict[str, str]) -> str | None:
        """The answer whose F1 is taken; None where there are more than two."""
        if len(answer) != 2:
            return None
        return answer[self.positive] if self.positive is not None else list(answer.values())[1]

    def _prompt(self, texts: Sequence[str]) -> str:
        return self.instruction + "".join(text + SEPARATOR for text in texts)

    @property
    def fields(self) -> tuple[str, ...]:
        return ("text",)

    def fields_of(self, examples: Sequence[Example]) -> tuple[str, ...]:
        return examples[0].context.fields if examples and examples[0].context else self.fields

    def example_of(self, row: Mapping[str, Any], protocol: str) -> Example:
        return Example("", self._prompt([text_field(row, key) for key in ("text", "text2") if key in row]), "", ())

    def decided(self, examples: Sequence[Example]) -> dict[str, Any]:
        context = examples[0].context if examples else None
        return {"labels": list(context.labels), "answers": list(context.choices)} if context else {}

    def label_names(self) -> dict[str, str]:
        if self.labels is None:
            raise UserError(f"task={self.name}: what the answers stand for is not known: add task.labels=[A,B,...]")
        return {answer: label for label, answer in self._mapping(self.labels).items()}

    def answer_choices(self, examples: Sequence[Example]) -> tuple[str, ...]:
        return examples[0].context[0] if examples and examples[0].context else super().answer_choices(examples)

    def score(self, predictions: Sequence[str], examples: Sequence[Example]) -> Scored:
        labels = [example.target for example in examples]
        choices, positive, metrics = self._choices(examples)
        values = classification(predictions, labels, choices, metrics, positive)
        statistics = [
            classification_statistics(prediction, label, choices)
            for prediction, label in zip(predictions, labels, strict=True)
        ]
        # the official code's way of counting is for published data alone
        return Scored({name: one for name, one in values.items() if not name.startswith("paper_")}, statistics)

    def signatures(self, examples: Sequence[Example]) -> dict[str, str]:
        choices, positive, metrics = self._choices(examples)
        line = classification_signature(len(examples), choices, metrics, positive)
        return {"classification": line.replace(" | paper_: any other answer is left out", "")}

    def _choices(self, examples: Sequence[Example]) -> tuple[tuple[str, ...], str | None, tuple[str, ...]]:
        """Answers, the positive one, and what can be counted: all metrics for two labels, else accuracy.

        Of examples that were made elsewhere (context None) the answers are their own.
        """
        choices, positive = (examples[0].context or (tuple(sorted({example.target for example in examples})), None))[:2]
        if len(choices) < 2:
            raise UserError(f"all examples have the label {choices[0]!r}: there is nothing to classify")
        if len(choices) > 2:
            return choices, None, ("accuracy",)
        return choices, positive or choices[1], METRICS


def _code(text: str) -> str:
    return " ".join(f"U+{ord(character):04X}" for character in text[:8])


def _distinct(name: str, values: Any) -> tuple[str, ...]:
    """A list of different texts or whole numbers, as texts. Raises UserError."""
    if not isinstance(values, list) or any(isinstance(one, bool) or not isinstance(one, str | int) for one in values):
        raise UserError(f"{name} must be a list of texts or whole numbers, got {values!r}")
    if len({str(one) for one in values}) != len(values) or not values:
        raise UserError(f"{name} must name each once, and at least one; got {values!r}")
    return tuple(str(one) for one in values)


def _texts(line: Line) -> list[str]:
    return [line.text("text"), *([line.text("text2")] if "text2" in line.row else [])]


def _label(line: Line) -> str:
    """The label, a whole number as its digits."""
    if "label" not in line.row:
        line.text("label")  # raises: it is missing
    value = line.row["label"]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise UserError(f"{line.place}: 'label' must be a text or a whole number, got {value!r}")
    return str(value)
