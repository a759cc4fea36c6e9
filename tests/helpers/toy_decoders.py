"""Models to decode with: one whose logits are a table, and a small random Mamba."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from helpers.beam_reference import Logits, Step, beam_search, greedy, table
from ssm_tune.config.groups import method_section
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.methods.adapter import attach
from ssm_tune.methods.base import load_method
from ssm_tune.models.config import MambaConfig
from ssm_tune.models.mamba import Mamba

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class TableModel(nn.Module):
    """A model whose logits are ``table``'s, seeded by the prompt; its cache holds what each row has read."""

    class Config:
        def __init__(self, vocab_size: int) -> None:
            self.vocab_size = vocab_size

    class Cache:
        row_bytes = 0

        def __init__(self, rows: list[tuple[Logits, tuple[int, ...]]]) -> None:
            self.rows = rows

        def select(self, index: Tensor) -> None:
            self.rows = [self.rows[row] for row in index.tolist()]

        def blank(self, rows: int) -> TableModel.Cache:
            return type(self)([self.rows[0]] * rows)

        def insert(self, rows: Tensor, other: TableModel.Cache, others: Tensor) -> None:
            for row, theirs in zip(rows.tolist(), others.tolist(), strict=True):
                self.rows[row] = other.rows[theirs]

    def __init__(self, seed: int, vocab: int, eos_id: int, boost: int, dtype: torch.dtype, levels: int = 17) -> None:
        super().__init__()
        self.config = self.Config(vocab)
        self.device = torch.device("cpu")
        self._table = lambda prompt: table(hash((seed, *prompt)), vocab, eos_id, boost, dtype, levels)

    def logits_of(self, prompt: list[int]) -> Logits:
        return self._table(prompt)

    def prefill(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Cache]:
        prompts = [row[:length] for row, length in zip(input_ids.tolist(), lengths.tolist(), strict=True)]
        cache = self.Cache([(self._table(prompt), ()) for prompt in prompts])
        return torch.stack([logits(()) for logits, _ in cache.rows]), cache

    def step(self, tokens: Tensor, cache: Cache, source: Tensor | None = None, into: Cache | None = None) -> Tensor:
        rows = cache.rows
        if source is not None:
            rows = [rows[max(row, 0)] for row in source.tolist()]
            cache = into
        cache.rows = [
            (logits, (*history, token)) for (logits, history), token in zip(rows, tokens.tolist(), strict=True)
        ]
        if source is None:
            return torch.stack([logits(history) for logits, history in cache.rows])
        idle = torch.full((self.config.vocab_size,), torch.nan, dtype=cache.rows[0][0](()).dtype)
        found = zip(cache.rows, source.tolist(), strict=True)
        return torch.stack([logits(history) if row >= 0 else idle for (logits, history), row in found])


def expected(model: TableModel, prompt: list[int], chosen: DecodeSettings, log: list[Step] | None = None) -> list[int]:
    options = {
        "min_length": chosen.min_length,
        "limit": chosen.max_new_tokens,
        "eos_id": chosen.eos_id,
        "log": log,
    }
    if chosen.num_beams == 1:
        return greedy(model.logits_of(prompt), len(prompt), **options)
    beams = {"num_beams": chosen.num_beams, "length_penalty": chosen.length_penalty}
    return beam_search(model.logits_of(prompt), len(prompt), **beams, **options)


def small_mamba(seed: int = 0, dtype: torch.dtype = torch.float32) -> Mamba:
    """A random Mamba whose predictions follow from all it has read and often end, with many close calls."""
    torch.manual_seed(seed)
    model = Mamba(MambaConfig(d_model=32, n_layer=2, vocab_size=48, tie_embeddings=False))
    with torch.no_grad():
        for mixer in model.mixers:
            mixer.in_proj.weight.mul_(3)
            mixer.out_proj.weight.mul_(6)  # the state speaks louder than the last token
        model.lm_head.weight.mul_(4)
        model.lm_head.weight[0] *= 1.5
    return model.to(dtype)


def tuned_mamba(name: str) -> Mamba:
    """The small model with a method's tensors away from their start, as after some training."""
    model = small_mamba()
    adapter = attach(model, load_method(method_section(name)), seed=3)
    with torch.no_grad():
        for value in adapter.parameters():
            value += 0.2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    return model


def varied_prompts(vocab: int, count: int = 12) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randint(vocab, (length,), generator=generator).tolist()
        for length in [1, 40, 2, 3, 17, 5, 9, 33, 4, 1, 25, 12][:count]
    ]
