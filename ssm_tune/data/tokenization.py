"""From examples to tokens: prefix, prompt and completion, each encoded on its own. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.tasks.base import Example, Task
from ssm_tune.utils.errors import UserError

CHUNK = 4096
"""Examples that are encoded at a time: the tokenizer's own record of a text is many times larger than its tokens."""


OTHER_ANSWERS = (
    "take a tokenizer in which every label is one token of its own, or other answers for the labels (task=classify: "
    "task.answers=digits, or a list of words)"
)


@dataclass(frozen=True)
class TokenizedExample:
    """One training example in tokens: the whole sequence, and how many of its last tokens carry the loss."""

    tokens: list[int]
    labels: int


def tokenize_prompts(examples: Sequence[Example], tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens that decoding starts from: prefix and prompt, each encoded on its own."""
    prefixes = {prefix: tokenizer.encode(prefix) for prefix in {example.prefix for example in examples}}
    prompts: list[list[int]] = []
    for start in range(0, len(examples), CHUNK):
        chunk = examples[start : start + CHUNK]
        encoded = tokenizer.encode_batch([example.prompt for example in chunk])
        prompts += [prefixes[example.prefix] + prompt for example, prompt in zip(chunk, encoded, strict=True)]
    return prompts


def tokenize_training(examples: Sequence[Example], task: Task, tokenizer: Tokenizer) -> Iterator[TokenizedExample]:
    """Whole sequences with their completions, encoded apart from the prompts, one example after the other.

    Raises UserError as ``answer_tokens`` does, where the task is classification.
    """
    if task.mode == "classify":
        answer_tokens(task, examples, tokenizer)
    for start in range(0, len(examples), CHUNK):
        chunk = examples[start : start + CHUNK]
        completions = tokenizer.encode_batch([task.completion(example) for example in chunk])
        for prompt, completion in zip(tokenize_prompts(chunk, tokenizer), completions, strict=True):
            yield TokenizedExample(prompt + completion, len(completion))


def answer_tokens(task: Task, examples: Sequence[Example], tokenizer: Tokenizer) -> dict[int, str]:
    """The answers of a classification task by their tokens.

    A prediction is compared as a token, since a decoder need not give back the text: with a space before it, say.
    Raises UserError as ``tokens_of_answers`` does.
    """
    answers = list(dict.fromkeys([*task.answer_choices(examples), *(example.target for example in examples)]))
    return tokens_of_answers(task.name, answers, tokenizer)


def tokens_of_answers(task: str, answers: Sequence[str], tokenizer: Tokenizer) -> dict[int, str]:
    """Answers by their tokens. Raises UserError where one is not one token, and where two are the same one."""
    found: dict[int, str] = {}
    for answer, tokens in zip(answers, tokenizer.encode_batch(answers), strict=True):
        if len(tokens) != 1:
            raise UserError(
                f"{task}: the answer {answer!r} is {len(tokens)} tokens in this tokenizer, and classification "
                f"reads one; {OTHER_ANSWERS}"
            )
        if tokens[0] in found:
            raise UserError(
                f"{task}: the answers {found[tokens[0]]!r} and {answer!r} are the same token in this tokenizer; "
                f"{OTHER_ANSWERS}"
            )
        found[tokens[0]] = answer
    return found


def too_long(examples: Sequence[Example], lengths: Sequence[int], limit: int, tokenizer: Tokenizer) -> list[str]:
    """Ids of the examples whose prompt and completion together have more than ``limit`` tokens.

    lengths: of the whole sequences, prefixes included, in the examples' order; the limit does not count a prefix.
    """
    prefixes = {prefix: len(tokenizer.encode(prefix)) for prefix in {example.prefix for example in examples}}
    return [
        example.id
        for example, length in zip(examples, lengths, strict=True)
        if length - prefixes[example.prefix] > limit
    ]
