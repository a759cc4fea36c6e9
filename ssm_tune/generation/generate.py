"""Decode prompts of different lengths with a recurrent model, many at once.

On a CPU in batches that examples leave as they end; on a GPU by continuous batching, where others take their places.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ssm_tune.data.collator import pad_prompts
from ssm_tune.generation.batches import prompt_batches
from ssm_tune.generation.beam_search import new_search, require_finite
from ssm_tune.generation.continuous_batching import ContinuousBatching
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.ops.cuda.graph import CudaCapture
from ssm_tune.utils.errors import UserError

if TYPE_CHECKING:
    from ssm_tune.models.mamba import Mamba

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
    """Continue each prompt; greedily with ``num_beams=1``, else by beam search (``ssm_tune.generation.beam_search``).

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
    """``generate``, but calls ``on_batch`` with the prompts' numbers and their new tokens as soon as they are done.

    skip: numbers of prompts that are done already. The batches are made as if there were none, and those that are
    done as a whole left out, so that rounding does not depend on where the work was interrupted. ``poll`` is called
    for every token, or every few; what it raises ends the work.
    """
    prompts = _checked(input_ids, model.config.vocab_size, settings)
    batches = prompt_batches([len(prompt) for prompt in prompts], settings.batch_size, model.device.type == "cuda")
    with inference(model):
        if model.device.type == "cuda":
            report = _reporter(on_progress, sum(at in skip for at in range(len(prompts))), len(prompts))
            finished = 0

            def on_finished(chosen: list[int], outputs: list[list[int]]) -> None:
                nonlocal finished
                on_batch(chosen, outputs)
                finished += len(chosen)
                report(finished)

            batching = ContinuousBatching(model, prompts, settings, on_finished, poll, CudaCapture(model.device))
            batching.run(batches, skip)
        else:
            in_batches(model, prompts, settings, batches, on_batch, skip, on_progress, poll)


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
    """Outputs of prompts that are decoded together; those that have ended leave the batch."""
    logits, cache = model.prefill(*pad_prompts(prompts, model.device))
    limit, vocab = settings.max_new_tokens, model.config.vocab_size
    search = new_search(
        [len(prompt) for prompt in prompts], [limit] * len(prompts), vocab, settings, limit, model.device
    )
    results: list[list[int]] = [[] for _ in prompts]
    numbers, length = list(range(len(prompts))), 0
    while True:
        rows_per_example = len(logits) // len(numbers)
        search.advance(logits)
        length += 1
        still_open, non_finite = search.status()
        require_finite(search, non_finite, dict(enumerate(numbers)))
        rows = search.parent_rows(rows_per_example)
        if not all(still_open):
            ended = [at for at, is_open in enumerate(still_open) if not is_open]
            for at, output in zip(ended, search.results(ended), strict=True):
                results[numbers[at]] = output
            left = [at for at, is_open in enumerate(still_open) if is_open]
            report(len(prompts) - len(left))
            if not left:
                return results
            numbers, rows, search = [numbers[at] for at in left], rows[rows >= 0], search.select(left, length)
        poll()
        same = torch.arange(len(logits), device=rows.device)
        if not torch.equal(rows, same):  # the beams' order changed, or examples have left
            cache.select(rows)
        logits = model.step(search.tokens.flatten(), cache)


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
    if isinstance(input_ids, str) or any(isinstance(prompt, str | int) for prompt in input_ids):
        raise UserError(
            "generate: input_ids must be token ids, a list a prompt; of a text: "
            "generate(model, [tokenizer.encode(text)]), with ssm_tune.load_tokenizer's"
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
