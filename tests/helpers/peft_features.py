"""What ssm_tune.peft does on each model, as checks; ``python -m helpers.peft_features`` in tests/ prints the table.

A check takes a model's name in ``peft_models``, raises AssertionError where the feature does not work, and gives what
the table says: "yes", or "refused" where the library refuses it by name.
"""

from __future__ import annotations

import copy
import inspect
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from helpers.peft_models import CONFIGS, small_model, tokens
from ssm_tune.peft import AdditionalScanConfig, InitialStateConfig, StateOffsetConfig

transformers.logging.set_verbosity_error()
_model = cache(small_model)


def fresh(name: str) -> Any:
    """A small base model of its own, frozen: PyTorch's products round otherwise where a weight wants a gradient."""
    return copy.deepcopy(_model(name)).requires_grad_(False)


def fill(model: nn.Module, seed: int = 1, size: float = 0.3) -> None:
    """Give every trained tensor random values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)


def tuned(name: str, config: Any = None, **changes: Any) -> Any:
    """A small model with a random adapter, in evaluation mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own deprecations, which peft calls
        model = get_peft_model(fresh(name), config or StateOffsetConfig(rank=2, **changes))
    fill(model)
    return model.eval()


def logits(model: nn.Module, ids: Tensor, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(ids, **kwargs).logits
    return found


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Both agree to ``tolerance`` of the largest number."""
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < tolerance, f"they differ by {error:.2e} of the largest"


def stepwise(model: nn.Module, ids: Tensor, prefill: int) -> Tensor:
    """The logits of ``ids`` from a prefill and a cache, one position after the other."""
    with torch.no_grad():
        out = model(ids[:, :prefill], use_cache=True)
        key = next(name for name in ("past_key_values", "cache_params", "cache") if name in list(out.keys()))
        parts = [out.logits]
        for at in range(prefill, ids.shape[1]):
            position = {"position_ids": torch.full((ids.shape[0], 1), at)} if _takes_positions(model) else {}
            parts.append(model(ids[:, at : at + 1], use_cache=True, **{key: out[key]}, **position).logits)
    return torch.cat(parts, dim=1)


def _method(config: Callable[[], Any]) -> Callable[[str], str]:
    def check(name: str) -> str:
        base, ids = fresh(name), tokens(2, 11)
        expected = logits(base, ids)
        training = base.train()(ids).logits.detach()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = get_peft_model(base.eval(), config())
            except ValueError as error:
                if "does not fit" not in str(error):
                    raise
                return "refused"
        assert torch.equal(logits(model, ids), expected), "a fresh adapter changes the logits"
        assert torch.equal(model.train()(ids).logits, training), "a fresh adapter changes the logits in training"
        fill(model)
        model(ids, labels=ids).loss.backward()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert trained
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained), "a gradient does not arrive"
        assert not torch.allclose(logits(model.eval(), ids), expected), "the adapter is not heard"
        return "yes"

    return check


def _padding(name: str) -> str:
    ids = tokens(1, 7)
    for config in (StateOffsetConfig(rank=2), InitialStateConfig()):
        model = tuned(name, config)
        alone = logits(model, ids)
        other, zeros, ones = tokens(1, 10, seed=1), torch.zeros(1, 3, dtype=torch.long), torch.ones_like(ids)
        rows = torch.cat([torch.cat([zeros, ids], 1), torch.cat([ids, zeros], 1), other])
        mask = torch.cat([torch.cat([zeros, ones], 1), torch.cat([ones, zeros], 1), torch.ones_like(other)])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with_positions = {"position_ids": positions} if _takes_positions(model) else {}
        padded = logits(model, rows, attention_mask=mask, **with_positions)
        close(padded[0, 3:], alone[0])
        close(padded[1, :7], alone[0])
        close(padded[2:], logits(model, other))
    return "yes"


def _takes_positions(model: Any) -> bool:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return "position_ids" in inspect.signature(base.forward).parameters


def _decoding(name: str) -> str:
    ids = tokens(2, 12)
    for config in (StateOffsetConfig(), InitialStateConfig()):
        model = tuned(name, config)
        for prefill in (1, 5):
            close(stepwise(model, ids, prefill), logits(model, ids))
    return "yes"


def _generate(name: str) -> str:
    ids = tokens(2, 5)
    for config in (StateOffsetConfig(rank=2), InitialStateConfig()):
        model = tuned(name, config)
        expected = ids
        for _ in range(6):
            expected = torch.cat([expected, logits(model, expected)[:, -1:].argmax(-1)], dim=1)
        shared: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6}
        model.generation_config.eos_token_id = None
        model.get_base_model().generation_config.eos_token_id = None
        shared.pop("min_new_tokens")
        assert torch.equal(model.generate(input_ids=ids, do_sample=False, **shared), expected), "greedy"
        beams = [model.generate(input_ids=ids, num_beams=3, use_cache=use, **shared) for use in (True, False)]
        assert torch.equal(*beams), "beams"
        torch.manual_seed(0)
        sampled = model.generate(input_ids=ids, do_sample=True, **shared)
        assert sampled.shape == expected.shape, "sampling"
    return "yes"


def _saving(name: str) -> str:
    ids = tokens(2, 9)
    model = tuned(name)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(fresh(name), folder).eval()
    assert torch.equal(logits(loaded, ids), logits(model.requires_grad_(False), ids))
    return "yes"


def _several(name: str) -> str:
    ids, base = tokens(2, 9), fresh(name)
    expected = logits(base, ids)
    model = get_peft_model(base, StateOffsetConfig(rank=2), adapter_name="one")
    fill(model, seed=1)
    first = logits(model.eval(), ids)
    model.add_adapter("two", StateOffsetConfig())
    model.set_adapter("two")
    fill(model, seed=2)
    second = logits(model, ids)
    assert not torch.allclose(first, second)
    with model.disable_adapter():
        assert torch.equal(logits(model, ids), expected)
    model.set_adapter("one")
    assert torch.equal(logits(model, ids), first)
    model.base_model.set_adapter(["one", "two"])
    both = logits(model, ids)
    model.add_weighted_adapter(["one", "two"], [1.0, 1.0], "sum")
    model.set_adapter("sum")
    close(logits(model, ids), both)
    model.delete_adapter("sum")
    assert torch.equal(logits(model.unload(), ids), expected)
    return "yes"


def _gradients(model: Any, ids: Tensor) -> list[Tensor]:
    model.zero_grad()
    model.train()(ids, labels=ids).loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]


def _checkpointing(name: str) -> str:
    ids = tokens(2, 9)
    model = tuned(name)
    expected = _gradients(model, ids)
    model.gradient_checkpointing_enable()
    for found, other in zip(_gradients(model, ids), expected, strict=True):
        close(found, other, 1e-4)
    return "yes"


def _bfloat16(name: str) -> str:
    ids = tokens(2, 9)
    model = get_peft_model(fresh(name).to(torch.bfloat16), StateOffsetConfig(rank=2)).eval()
    expected = logits(model.get_base_model(), ids)
    assert torch.equal(logits(model, ids), expected)
    fill(model)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters() if parameter.requires_grad)
    assert all(gradient.isfinite().all() for gradient in _gradients(model, ids))
    close(logits(model.eval(), ids).float(), logits(tuned(name), ids), 0.2)
    return "yes"


def _compile(name: str) -> str:
    ids = tokens(2, 9)
    model = tuned(name)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager")
    close(logits(compiled, ids), logits(model, ids))
    return "yes"


def _merging(name: str) -> str:
    with pytest.raises(ValueError, match="cannot be merged"):
        tuned(name).merge_and_unload()
    return "refused"


def _merging_states(name: str) -> str:
    ids = tokens(2, 9)
    try:
        model = tuned(name, AdditionalScanConfig(states=4))
        expected = logits(model, ids)
        merged: Any = model.merge_and_unload()
    except ValueError as error:
        if not any(words in str(error) for words in ("cannot be merged", "does not fit")):
            raise
        return "refused"
    with tempfile.TemporaryDirectory() as folder:
        merged.save_pretrained(folder)
        loaded = type(merged).from_pretrained(folder)
    for one in (merged, loaded):
        close(logits(one, ids), expected)
    close(stepwise(merged, ids, 4), expected)
    return "yes"


FEATURES: dict[str, Callable[[str], str]] = {
    "h'": _method(StateOffsetConfig),
    "h' of a rank": _method(lambda: StateOffsetConfig(rank=3)),
    "y'": _method(lambda: StateOffsetConfig(offset="y")),
    "initial state": _method(InitialStateConfig),
    "additional scan": _method(lambda: AdditionalScanConfig(states=4)),
    "padding": _padding,
    "cached decoding": _decoding,
    "generate": _generate,
    "save and load": _saving,
    "several adapters": _several,
    "gradient checkpointing": _checkpointing,
    "bfloat16 base": _bfloat16,
    "torch.compile": _compile,
    "merge h'": _merging,
    "merge additional scan": _merging_states,
}


def table() -> str:
    """The table of docs/peft.md: a row for each feature, a column for each model."""
    lines = [f"| | {' | '.join(CONFIGS)} |", f"|---|{'---|' * len(CONFIGS)}"]
    for feature, check in FEATURES.items():
        cells = []
        for name in CONFIGS:
            try:
                cells.append(check(name))
            except Exception as error:
                print(f"{feature} on {name}: {type(error).__name__}: {error}", file=sys.stderr)
                cells.append("no")
        lines.append(f"| {feature} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
