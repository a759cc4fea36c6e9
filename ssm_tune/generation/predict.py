"""A model's predictions for the examples of a split: the next token read off, or text decoded."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch

from ssm_tune.data.collator import pad_prompts
from ssm_tune.data.tokenization import tokenize_prompts
from ssm_tune.generation.batches import next_token_batches
from ssm_tune.generation.generate import generate_batches, inference
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.tasks.base import Example
from ssm_tune.utils.errors import Diverged
from ssm_tune.utils.progress import Progress


@dataclass(frozen=True)
class Outputs:
    """A model's outputs for the examples of a split. likeliest: of a classification, the likeliest of the labels."""

    texts: list[str]
    likeliest: list[str] | None = None


def joined(shares: Sequence[Outputs]) -> Outputs:
    """The outputs for all examples, of which share r of n has every n-th from the r-th on."""
    count = sum(len(share.texts) for share in shares)

    def woven(parts: Sequence[list[str]]) -> list[str]:
        texts = [""] * count
        for rank, part in enumerate(parts):
            texts[rank :: len(parts)] = part
        return texts

    likeliest = [share.likeliest or [] for share in shares]
    return Outputs(woven([share.texts for share in shares]), woven(likeliest) if any(likeliest) else None)


@dataclass
class Predictions:
    """Predictions so far, by the example's number in its split.

    tokens: generated for the texts. labels: for "classify", the likeliest of the labels, with its probability among
    them.
    """

    texts: dict[int, str] = field(default_factory=dict)
    tokens: int = 0
    labels: dict[int, tuple[str, float]] = field(default_factory=dict)

    def outputs(self) -> Outputs:
        """All of them, in the examples' order."""
        numbers = range(len(self.texts))
        likeliest = [self.labels[at][0] for at in numbers] if self.labels else None
        return Outputs([self.texts[at] for at in numbers], likeliest)


class Watch(Protocol):
    """Who may end an evaluation, or save its progress, by raising or saving in these calls."""

    def poll(self) -> None:
        """Called for every token that is decoded, or every few; there is nothing new to save."""

    def on_batch_end(self) -> None:
        """Called after every batch, whose predictions are in ``Predictions``."""


class Unwatched:
    """A ``Watch`` that does nothing."""

    def poll(self) -> None: ...
    def on_batch_end(self) -> None: ...


def predict(
    model: Mamba,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    mode: Literal["classify", "generate"],
    settings: DecodeSettings,
    progress: Progress,
    label: str,
    clean_up: bool = True,
    answers: Mapping[int, str] | None = None,
    done: Predictions | None = None,
    watch: Watch | None = None,
) -> list[str]:
    """The model's prediction for every example, as text.

    mode: "classify" takes the most likely next token of the whole vocabulary; "generate" decodes as ``settings`` say.
    answers: the texts of answer tokens, for "classify"; any other token is decoded. With them, the likeliest of these
    answers is found as well, and put into ``done``.
    done: predictions of an interrupted evaluation, which are kept, and which the others are added to.

    Raises Diverged where logits are not finite.
    """
    predictions, watching = done if done is not None else Predictions(), watch or Unwatched()
    prompts = tokenize_prompts(examples, tokenizer)
    reported = len(predictions.texts)
    progress.start(label, len(examples), done=reported)

    def report(finished: int, total: int) -> None:
        nonlocal reported
        progress.advance(finished - reported, "")
        reported = finished

    def keep(numbers: list[int], outputs: list[list[int]]) -> None:
        for at, tokens in zip(numbers, outputs, strict=True):
            # some of a batch that was done in part come a second time
            if at not in predictions.texts:
                predictions.tokens += len(tokens)
            predictions.texts[at] = tokenizer.decode(tokens, clean_up)
        watching.on_batch_end()

    def keep_next(numbers: list[int], tokens: list[int], likeliest: list[tuple[int, float]]) -> None:
        for at, token in zip(numbers, tokens, strict=True):
            known = answers.get(token) if answers else None
            predictions.texts[at] = tokenizer.decode([token], clean_up) if known is None else known
        for at, (token, probability) in zip(numbers, likeliest, strict=False):
            assert answers is not None
            predictions.labels[at] = answers[token], probability
        report(len(predictions.texts), len(examples))
        watching.on_batch_end()

    skip = set(predictions.texts)
    try:
        if mode == "classify":
            next_tokens(model, prompts, settings.batch_size, keep_next, skip, list(answers or ()))
        else:
            generate_batches(model, prompts, settings, keep, skip=skip, on_progress=report, poll=watching.poll)
    except FloatingPointError as error:
        raise Diverged(f"{label}: {error}") from error
    progress.stop()
    return [predictions.texts[at] for at in range(len(examples))]


def next_tokens(
    model: Mamba,
    prompts: list[list[int]],
    batch_size: int | None,
    on_batch: Callable[[list[int], list[int], list[tuple[int, float]]], None],
    skip: Container[int] = (),
    labels: Sequence[int] = (),
) -> None:
    """Call ``on_batch`` with the numbers of each batch's prompts, the most likely token after each, and the most likely
    of the ``labels`` (an empty list where there are none) with its probability among them.

    Batches whose numbers are all in ``skip`` are left out. Raises FloatingPointError for logits that are not finite.
    """
    device = model.device
    with inference(model):
        for batch in next_token_batches([len(prompt) for prompt in prompts], batch_size, device.type == "cuda"):
            if all(at in skip for at in batch):
                continue
            logits, _ = model.prefill(*pad_prompts([prompts[at] for at in batch], device), keep=False)
            found = [logits.isfinite().all().view(1), logits.argmax(-1)]
            if labels:
                chosen = logits[:, labels].double()
                found += [chosen.argmax(-1), chosen.softmax(-1).amax(-1)]
            finite, *numbers = torch.cat([one.double() for one in found]).tolist()  # one wait
            if not finite:
                raise FloatingPointError("the logits after a prompt are not finite")
            best, places, probabilities = (numbers[at : at + len(batch)] for at in (0, len(batch), 2 * len(batch)))
            likeliest = [(labels[int(place)], one) for place, one in zip(places, probabilities, strict=True)]
            on_batch(batch, [int(token) for token in best], likeliest)
