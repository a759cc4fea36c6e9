"""A training step on the CPU: ours against transformers' MambaForCausalLM (its path without CUDA kernels).

    python scripts/bench_cpu_step.py [--repeats 7]

The same weights and tokens in one process, forward and backward with gradients for all parameters, medians of warm
repeats, both in turn. The floor counts the scan's exponentials alone, two per state and position (the backward
makes them anew), at the rate that torch.exp reaches here. Needs the dev extra.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import MambaConfig as TheirConfig
from transformers import MambaForCausalLM

from ssm_tune.models.block import MambaConfig
from ssm_tune.models.initial import initialised
from ssm_tune.models.mamba import Mamba

LAYERS, WIDTH, BATCH, LENGTH, VOCABULARY = 4, 128, 4, 256, 2048


def models() -> tuple[Mamba, MambaForCausalLM]:
    ours = initialised(MambaConfig(WIDTH, LAYERS, VOCABULARY), seed=0)
    theirs = MambaForCausalLM(
        TheirConfig(hidden_size=WIDTH, num_hidden_layers=LAYERS, vocab_size=VOCABULARY, use_cache=False)
    )
    renamed = {name.replace("embedding.", "embeddings."): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(renamed)
    return ours, theirs


def seconds(step: Callable[[], Tensor]) -> float:
    begun = time.perf_counter()
    step().backward()
    return time.perf_counter() - begun


def exponential_rate() -> float:
    """Exponentials a second, of a buffer that fits the cache."""
    buffer = torch.randn(2**17)
    times = []
    for _ in range(50):
        begun = time.perf_counter()
        torch.exp(buffer)
        times.append(time.perf_counter() - begun)
    return buffer.numel() / statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    ours, theirs = models()
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1).flatten()

    def our_step() -> Tensor:
        return F.cross_entropy(ours(tokens).flatten(0, 1), targets)

    def their_step() -> Tensor:
        return F.cross_entropy(theirs(tokens).logits.flatten(0, 1), targets)

    difference = (our_step() - their_step()).abs().item()
    seconds(our_step), seconds(their_step)
    pairs = [(seconds(our_step), seconds(their_step)) for _ in range(repeats)]
    mine, peer = (statistics.median(times) for times in zip(*pairs, strict=True))
    states = LAYERS * BATCH * LENGTH * ours.config.d_inner * ours.config.d_state
    floor = 2 * states / exponential_rate()
    print(f"{LAYERS} layers x {WIDTH}, batch {BATCH}, length {LENGTH}")
    print(f"{torch.get_num_threads()} threads, medians of {repeats} repeats")
    print(f"loss difference       {difference:.1e}")
    print(f"transformers          {peer * 1e3:8.0f} ms")
    print(f"ssm-tune              {mine * 1e3:8.0f} ms   {peer / mine:.1f} times faster")
    print(f"exponentials alone    {floor * 1e3:8.0f} ms   {mine / floor:.1f} times the floor")


if __name__ == "__main__":
    main()
