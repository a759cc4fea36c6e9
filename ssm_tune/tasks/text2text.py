"""The user's own data whose answers are texts: lines of JSON with "input" and "target", or "targets"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssm_tune.metrics.bleu import bleu_scored, bleu_signature, sacrebleu, sacrebleu_signature
from ssm_tune.metrics.exact_match import exact_match, exact_match_signature
from ssm_tune.metrics.meteor import meteor, meteor_name, meteor_signature, require_wordnet
from ssm_tune.metrics.rouge import ROUGE_TYPES, rouge_scored, rouge_signature
from ssm_tune.tasks.base import (
    SEPARATOR,
    Dataset,
    Example,
    Scored,
    data_name,
    make_dataset,
    text_field,
    with_normalisation,
)
from ssm_tune.tasks.own_data import Line, OwnData, as_list
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.text import as_decoded, nfc

METRICS = (*ROUGE_TYPES, "bleu", "sacrebleu", "meteor", "meteor_no_synonyms", "exact_match")


class Text2Text(OwnData):
    """The input, then ``###``; a text is the answer. Training takes every target of a line as an example of its own.

    instruction: a line before every input, encoded apart; none where empty. metric: a name of METRICS or several, the
    first of which picks the epoch. METEOR is computed where it is asked for, the others always.
    """

    def __init__(self, name: str, instruction: str, metric: str | list[str]) -> None:
        super().__init__(name)
        if not isinstance(instruction, str):
            raise UserError(f"task.instruction must be text, got {instruction!r}")
        self.instruction, self.metrics = instruction, as_list("task.metric", metric, METRICS)

    def load(self, data: dict[str, Any], protocol: str) -> Dataset:
        return self.dataset(data, self.read(data, protocol, group=lambda line: line.text("input")))

    def dataset(self, data: dict[str, Any], lines: dict[str, list[Line]]) -> Dataset:
        splits = {
            split: [example for line in given for example in self._examples(line, split)]
            for split, given in lines.items()
        }
        # part of the hash, since METEOR is computed only where it is asked for
        extra = " ".join(name for name in METRICS if name in self.metrics and name.startswith("meteor"))
        return make_dataset(data_name(data, self.name), False, splits, self.metrics[0], self.metrics, extra=extra)

    def _examples(self, line: Line, split: str) -> list[Example]:
        prompt, targets, prefix = line.text("input") + SEPARATOR, _targets(line), self._prefix
        if split != "train" or len(targets) == 1:
            return [Example(line.id, prompt, targets[0], targets, prefix, group=line.id)]
        return [
            Example(f"{line.id}-{number}", prompt, target, targets, prefix, group=line.id)
            for number, target in enumerate(targets)
        ]

    @property
    def _prefix(self) -> str:
        return self.instruction + "\n" if self.instruction else ""

    @property
    def fields(self) -> tuple[str, ...]:
        return ("input",)

    def example_of(self, row: Mapping[str, Any], protocol: str) -> Example:
        return Example("", text_field(row, "input") + SEPARATOR, "", (), self._prefix)

    def check_scoring(self, examples: Sequence[Example]) -> None:
        if "meteor" in self.metrics:
            try:
                require_wordnet()
            except UserError as error:
                raise UserError(f"{error}; or take meteor_no_synonyms in task.metric, another number") from error

    def score(self, predictions: Sequence[str], examples: Sequence[Example]) -> Scored:
        references, predictions = _references(examples), list(map(nfc, predictions))
        values, statistics = rouge_scored(predictions, references)
        values["bleu"], counts = bleu_scored(predictions, references)
        values["sacrebleu"] = sacrebleu(predictions, references)
        values["exact_match"], equal = exact_match(predictions, references)
        for own, parts, one in zip(statistics, counts, equal, strict=True):
            own |= {f"bleu_{key}": value for key, value in parts.items()} | {"exact_match": one}
        for synonyms in self._meteors():
            name = meteor_name(synonyms)
            values[name], each = meteor(predictions, references, synonyms)
            for own, one in zip(statistics, each, strict=True):
                own[name] = one
        return Scored(values, statistics)

    def signatures(self, examples: Sequence[Example]) -> dict[str, str]:
        n = len(examples)
        lines = {
            "rouge": rouge_signature(n),
            "bleu": bleu_signature(n),
            "sacrebleu": sacrebleu_signature(_references(examples)),
            "exact_match": exact_match_signature(n),
        }
        lines |= {meteor_name(synonyms): meteor_signature(n, synonyms) for synonyms in self._meteors()}
        return with_normalisation(lines, examples)

    def _meteors(self) -> list[bool]:
        """With and without synonyms, as asked."""
        return [synonyms for synonyms in (True, False) if meteor_name(synonyms) in self.metrics]


def _references(examples: Sequence[Example]) -> list[list[str]]:
    return [[as_decoded(reference) for reference in example.references] for example in examples]


def _targets(line: Line) -> tuple[str, ...]:
    if "targets" not in line.row:
        texts = [line.text("target")]
    elif "target" in line.row:
        raise UserError(f"{line.place}: it has both 'target' and 'targets'; keep one")
    else:
        texts = line.row["targets"]
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{line.place}: 'targets' must be a list of at least one text")
        texts = [line.checked(text, "targets") for text in texts]
    if not all(text.strip() for text in texts):
        raise UserError(f"{line.place}: a target is empty")
    return tuple(texts)
