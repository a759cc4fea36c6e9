"""Decode prompts of different lengths with a recurrent model, many at once.

On a CPU in batches that examples leave as they end (``beam``); on a GPU through slots that others enter then
(``continuous``).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ssm_tune.data.collator import pad_prompts
from ssm_tune.generation.continuous_batching import Continuous
from ssm_tune.generation.settings import DecodeSettings, search
from ssm_tune.ops.cuda.graph import CudaCapture
from ssm_tune.utils.errors import UserError

if TYPE_CHECKING:
    from ssm_tune.models.mamba import Mamba

BATCH_SIZE = 64
"""Prompts read together; on a CPU they are also decoded together, unless decode.batch_size says how many."""
OnBatch = Callable[[list[int], list[list[int]]], None]
"""Called with the numbers of prompts that are done, and the new tokens of each."""
Progress = Callable[[int, int], None]
"""Called with (examples finished, examples in all) whenever the first number has grown."""


def generate(
    model: Mamba,
    input_ids: Tensor | Sequence[Sequence[int]],
    settings: DecodeSettings | None = None,
    *,
    on_progress: Progress | None = None,
    **options: int | float,
) -> list[list[int]]:
    """Continue each prompt; greedily with ``num_beams=1``, else by beam search (``ssm_tune.generation.settings``).

    input_ids: (B, L) int64, or token lists of any lengths of at least 1. ``options`` are fields of
    ``DecodeSettings`` and override ``settings`` (by default the paper's: 5 beams, at most 1,024 new tokens).
    Returns the new tokens of each prompt, in the prompts' order, without the prompt and without EOS.

    The model decodes in eval mode and without gradients; its training flags are as before afterwards, also
    after an interruption. Raises UserError for an empty prompt, a token outside the vocabulary or a setting
    that cannot work, FloatingPointError for logits that are not finite.
    """
    settings = replace(settings or DecodeSettings(), **options)  # type: ignore[arg-type]
    results: list[list[int]] = [[] for _ in input_ids]

    def keep(chosen: list[int], outputs: list[list[int]]) -> None:
        for at, output in zip(chosen, outputs, strict=True):
            results[at] = output

    generate_batches(model, input_ids, settings, keep, on_progress=on_progress)
    return results


def generate_batches(
    model: Mamba,
    input_ids: Tensor | Sequence[Sequence[int]],
    settings: DecodeSettings,
    on_batch: OnBatch,
    *,
    skip: Container[int] = (),
    on_progress: Progress | None = None,
    poll: Callable[[], None] = lambda: None,
) -> None:
    """``generate``, handing on what is done as soon as it is: the prompts' numbers, and the new tokens of each.

    skip: numbers of prompts that are done already. The batches are made as if there were none, and those that are
    done as a whole left out, so that rounding does not depend on where the work was cut. ``poll`` is called for
    every token, or every few; what it raises ends the work.
    """
    prompts = _checked(input_ids, model.config.vocab_size, settings)
    with inference(model):
        if model.device.type == "cuda":
            report = _reporter(on_progress, sum(at in skip for at in range(len(prompts))), len(prompts))
            finished = 0

            def hand_over(chosen: list[int], outputs: list[list[int]]) -> None:
                nonlocal finished
                on_batch(chosen, outputs)
                finished += len(chosen)
                report(finished)

            batches = longest_first(prompts, min(settings.batch_size or BATCH_SIZE, BATCH_SIZE))
            Continuous(model, prompts, settings, hand_over, poll, CudaCapture(model.device)).run(batches, skip)
        else:
            batches = longest_first(prompts, settings.batch_size or BATCH_SIZE)
            in_batches(model, prompts, settings, batches, on_batch, skip, on_progress, poll)


def longest_first(prompts: list[list[int]], size: int) -> list[list[int]]:
    """The prompts' numbers in batches of prompts of similar length. The longest come first: the batch that needs the
    most memory fails at once or never."""
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]), reverse=True)
    return [order[start : start + size] for start in range(0, len(order), size)]


def in_batches(
    model: Mamba,
    prompts: list[list[int]],
    settings: DecodeSettings,
    batches: list[list[int]],
    on_batch: OnBatch,
    skip: Container[int] = (),
    on_progress: Progress | None = None,
    poll: Callable[[], None] = lambda: None,
) -> None:
    """Decode batches of prompt numbers, one after the other, but for those that are in ``skip`` as a whole."""
    before = 0
    for chosen in batches:
        if not all(at in skip for at in chosen):
            report = _reporter(on_progress, before, len(prompts))
            on_batch(chosen, _decode([prompts[at] for at in chosen], model, settings, report, poll))
        before += len(chosen)


def _decode(
    prompts: list[list[int]],
    model: Mamba,
    settings: DecodeSettings,
    report: Callable[[int], None],
    poll: Callable[[], None],
) -> list[list[int]]:
    """Outputs of prompts that are decoded together."""
    lengths = [len(prompt) for prompt in prompts]
    logits, cache = model.prefill(*pad_prompts(prompts, model.device))
    state = search(lengths, settings)
    while (move := state.advance(logits)) is not None:
        poll()
        report(state.finished)
        if move.rows is not None:  # the beams' order changed, or examples that are done leave
            cache.select(move.rows)
        logits = model.step(move.tokens, cache)
    report(state.finished)
    return state.results


def _checked(input_ids: Tensor | Sequence[Sequence[int]], vocab_size: int, settings: DecodeSettings) -> list[list[int]]:
    """The prompts as lists, or UserError."""
    if isinstance(input_ids, Tensor):
        if input_ids.dim() != 2 or input_ids.dtype.is_floating_point:
            raise UserError(
                f"generate: input_ids must be a tensor (B, L) of token ids, got "
                f"{tuple(input_ids.shape)} of {input_ids.dtype}"
            )
        input_ids = input_ids.tolist()
    if vocab_size < 2 or settings.eos_id >= vocab_size:
        raise UserError(
            f"generate: eos_id {settings.eos_id} is outside the model's vocabulary of {vocab_size}; "
            "the tokenizer does not fit the model"
        )
    prompts = [list(prompt) for prompt in input_ids]
    for at, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"generate: prompt {at} is empty; give at least one token")
        outside = next((token for token in prompt if not 0 <= token < vocab_size), None)
        if outside is not None:
            raise UserError(
                f"generate: prompt {at} holds token {outside}, but the model's vocabulary has {vocab_size}; "
                "the tokenizer does not fit the model"
            )
    return prompts


def _reporter(on_progress: Progress | None, before: int, total: int) -> Callable[[int], None]:
    """Turn a batch's count of finished examples into calls of ``on_progress``, only when it grows."""
    last = 0

    def report(finished: int) -> None:
        nonlocal last
        if on_progress is not None and finished > last:
            on_progress(before + finished, total)
        last = finished

    return report


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own training flag comes back, whatever happens inside."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        # Not inference_mode: a tensor that a method keeps while decoding must still serve training later.
        with torch.no_grad():
            yield
    finally:
        for module, flag in training.items():
            module.training = flag
