"""Continuous batching on a GPU: captured, launched singly and on plain PyTorch, with every method."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from helpers.decoding_ties import compare
from helpers.toy_decoders import small_mamba, varied_prompts
from torch import nn

from ssm_tune.config.groups import method_section, names
from ssm_tune.generation.batches import length_batches
from ssm_tune.generation.continuous_batching import ContinuousBatching
from ssm_tune.generation.generate import generate, generate_batches, in_batches, inference
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.methods.adapter import attach
from ssm_tune.methods.base import load_method
from ssm_tune.models.mamba import Mamba
from ssm_tune.ops import backend
from ssm_tune.ops.cuda.graph import CudaCapture

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Of logits, by the largest of them."""


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """In place of this folder's fixture: decoding is tested as it runs, on the CUDA kernels."""
    backend.use("cuda")
    yield
    backend.use("auto")


def tuned(name: str, dtype: torch.dtype) -> Mamba:
    """A small model with a method's tensors away from their start; not so far where they are the model's own."""
    model = small_mamba().cuda()
    model.cast_params(dtype)
    far = 0.02 if name in ("full", "partial") else 0.2
    adapter = attach(model, load_method(method_section(name)), seed=3)
    with torch.no_grad():
        for value in adapter.parameters():
            value += (far * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))).to(value)
    return model


def decode_continuously(
    model: nn.Module, prompts: list[list[int]], chosen: DecodeSettings, capture: CudaCapture | None = None
) -> list[list[int]]:
    outputs: list[list[int]] = [[] for _ in prompts]

    def keep(numbers: list[int], found: list[list[int]]) -> None:
        for at, output in zip(numbers, found, strict=True):
            outputs[at] = output

    with inference(model):
        batching = ContinuousBatching(model, prompts, chosen, keep, lambda: None, capture)
        batching.run(length_batches([len(prompt) for prompt in prompts], chosen.batch_size or len(prompts)))
    assert batching.not_captured is None
    return outputs


def on_plain_pytorch(model: nn.Module, prompts: list[list[int]], chosen: DecodeSettings) -> list[list[int]]:
    """The searches in batches, on the reference backend."""
    outputs: list[list[int]] = []
    backend.use("reference")
    try:
        with inference(model):
            in_batches(model, prompts, chosen, [list(range(len(prompts)))], lambda _, found: outputs.extend(found))
    finally:
        backend.use("cuda")
    return outputs


@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize("num_beams", [1, 5])
@pytest.mark.parametrize("name", names("method"))
def test_captured_steps_give_the_tokens_of_the_same_steps_launched_singly(
    name: str, num_beams: int, dtype: torch.dtype
) -> None:
    model, prompts = tuned(name, dtype), varied_prompts(48) * 2
    chosen = DecodeSettings(num_beams=num_beams, max_new_tokens=40, batch_size=7)
    singly = decode_continuously(model, prompts, chosen)
    assert decode_continuously(model, prompts, chosen, CudaCapture(model.device)) == singly
    assert generate(model, prompts, chosen) == singly
    assert any(singly)


@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize("num_beams", [1, 5])
@pytest.mark.parametrize("name", names("method"))
def test_tokens_differ_from_plain_pytorchs_by_rounding_only(name: str, num_beams: int, dtype: torch.dtype) -> None:
    model = tuned(name, dtype)
    chosen = DecodeSettings(num_beams=num_beams, max_new_tokens=16, batch_size=5)
    results = compare(model, varied_prompts(48), chosen, decode_continuously, on_plain_pytorch)
    diverged = [result for result in results if result.decision]
    largest = max(result.logit_difference / result.logit_scale for result in results)
    print(f"{name}, {num_beams} beams, {dtype}: {len(diverged)} of {len(results)} diverge, logits by {largest:.2g}")
    assert largest <= ROUNDING[dtype]
    for result in diverged:
        print(result)
        assert result.margin <= result.change


@pytest.mark.parametrize("num_beams", [1, 5])
def test_the_reference_backend_is_captured_too(num_beams: int) -> None:
    backend.use("reference")
    model, prompts = tuned("state_offset", torch.float32), varied_prompts(48)
    chosen = DecodeSettings(num_beams=num_beams, max_new_tokens=20, batch_size=5)
    captured = decode_continuously(model, prompts, chosen, CudaCapture(model.device))
    assert captured == decode_continuously(model, prompts, chosen)


def test_what_is_done_already_changes_nothing_for_the_others() -> None:
    """The number of places is found; neighbours and places differ, the tokens do not."""
    model, prompts = tuned("lora", torch.bfloat16), varied_prompts(48)
    chosen, rest = DecodeSettings(num_beams=5, max_new_tokens=20), {}
    outputs = generate(model, prompts, chosen)
    done = set(range(0, len(prompts), 2))
    generate_batches(model, prompts, chosen, lambda at, found: rest.update(zip(at, found, strict=True)), skip=done)
    assert rest == {at: output for at, output in enumerate(outputs) if at not in done}


def test_running_out_of_memory_names_what_was_asked_for() -> None:
    model = tuned("state_offset", torch.bfloat16)
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() / torch.cuda.get_device_properties(0).total_memory + 0.001
    torch.cuda.set_per_process_memory_fraction(limit)
    try:
        with pytest.raises(torch.OutOfMemoryError, match=r"decoding, reading 64 prompts of up to 40000 tokens"):
            generate(model, [[1] * 40_000] * 64, num_beams=5)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
