"""A tuned model's answers to prompts of a user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ssm_tune.data.tokenization import tokens_of_answers
from ssm_tune.generation.predict import Predictions, predict
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.tasks.base import Example, Task
from ssm_tune.utils.errors import Diverged, UserError
from ssm_tune.utils.progress import Progress


def answer(
    model: Mamba,
    tokenizer: Tokenizer,
    task: Task | None,
    labels: Mapping[str, str] | None,
    prompts: Sequence[Example],
    settings: DecodeSettings,
    progress: Progress,
) -> list[tuple[str, float | None]]:
    """For each prompt a text, or the likeliest label with its probability among the labels.

    task: None for plain generation. labels: of a classification, by the answers that stand for them.
    Raises UserError where logits are not finite, or an answer is not one token.
    """
    done = Predictions()
    clean_up = task.clean_up if task is not None else True
    mode = task.mode if task is not None else "generate"
    answers = tokens_of_answers(task.name, list(labels), tokenizer) if task is not None and labels else None
    try:
        predict(model, prompts, tokenizer, mode, settings, progress, "answers", clean_up, answers, done)
    except Diverged as error:
        raise UserError(f"the model cannot answer: {error}") from error
    if labels is None:
        return [(text, None) for text in done.outputs().texts]
    return [(labels[found], probability) for _, (found, probability) in sorted(done.labels.items())]
