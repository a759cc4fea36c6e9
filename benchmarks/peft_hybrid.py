"""Fine-tuning a large random hybrid with peft: a state offset and an initial state beside peft's LoRA, on one GPU.

    PYTHONPATH=. python benchmarks/peft_hybrid.py             # one GPU, less than two minutes on an H200

The model is shaped like Falcon-H1 34B (attention and a Mamba-2 mixer in each layer, bfloat16, random weights), with as
many layers as fit. One model serves all methods in turn, each in the same process: AdamW on the adapter's float32
tensors, gradient checkpointing, the same random batch. A line gives what is trained, the memory at most, the time of a
step and tokens a second; "forward alone" is the frozen model without gradients.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from transformers import FalconH1Config, FalconH1ForCausalLM

from ssm_tune.peft import InitialStateConfig, StateOffsetConfig

GIB = 2**30


def shape(layers: int, width: int, vocabulary: int) -> FalconH1Config:
    """Falcon-H1 34B's proportions at a width."""
    return FalconH1Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 128,
        num_key_value_heads=max(1, width // 640),
        mamba_d_ssm=2 * width,
        mamba_n_heads=width // 32,
        mamba_d_head=64,
        mamba_d_state=256,
        mamba_n_groups=2,
        mamba_chunk_size=128,
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )


def parameters(config: FalconH1Config) -> int:
    """The weights of a model of these sizes, counted without memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in FalconH1ForCausalLM(config).parameters())


def largest(options: argparse.Namespace, device: torch.device) -> FalconH1Config:
    """The configuration with the most layers whose bfloat16 weights take ``share`` of the memory."""
    if options.layers:
        return shape(options.layers, options.width, options.vocabulary)
    room = torch.cuda.get_device_properties(device).total_memory * options.share
    one, two = (2 * parameters(shape(layers, options.width, options.vocabulary)) for layers in (1, 2))
    layers = max(1, int((room - one) // (two - one)) + 1)
    return shape(layers, options.width, options.vocabulary)


def build(config: FalconH1Config, device: torch.device) -> Any:
    """A frozen random model in bfloat16, made on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = FalconH1ForCausalLM(config)
        finally:
            torch.set_default_dtype(torch.float32)
    return model.requires_grad_(False)


def timed(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Milliseconds of one call, on the average after a first one."""
    step()
    _wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(device)
    return (time.perf_counter() - start) * 1000 / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(name: str, base: Any, config: Any, ids: torch.Tensor, steps: int) -> dict[str, Any]:
    """Train with one method for some steps, and give the numbers of its line."""
    device = ids.device
    model = base if config is None else peft.get_peft_model(base, config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3) if trained else None
    losses = []

    def step() -> None:
        if optimizer is None:
            with torch.no_grad():
                losses.append(model(ids, labels=ids).loss)
            return
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    milliseconds = timed(step, steps, device)
    peak = torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else float("nan")
    row = {
        "method": name,
        "trained": sum(parameter.numel() for parameter in trained),
        "peak_gib": round(peak, 1),
        "step_ms": round(milliseconds, 1),
        "tokens_per_s": round(ids.numel() * 1000 / milliseconds),
        "loss_first": round(losses[0].item(), 3),
        "loss_last": round(losses[-1].item(), 3),
    }
    if config is not None:
        model.unload()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="(default: as many as fit)")
    parser.add_argument("--share", type=float, default=0.65, help="of the GPU's memory for the weights")
    parser.add_argument("--width", type=int, default=5120)
    parser.add_argument("--vocabulary", type=int, default=65536)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="also write the lines to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    device = torch.device(options.device)
    start = time.perf_counter()
    config = largest(options, device)
    model = build(config, device)
    model.gradient_checkpointing_enable()
    model.train()
    count = sum(parameter.numel() for parameter in model.parameters())
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    print(f"{where}; {packages}")
    print(
        f"{count / 1e9:.2f} billion parameters in {config.num_hidden_layers} layers, made in "
        f"{time.perf_counter() - start:.0f} s; {options.rows} x {options.length} tokens"
    )
    ids = torch.randint(0, options.vocabulary, (options.rows, options.length), device=device)
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["in_proj", "q_proj", "k_proj", "v_proj"])
    methods = {
        "forward alone": None,
        "LoRA r=8": lora,
        "state offset r=8": StateOffsetConfig(rank=8),
        "state offset h'": StateOffsetConfig(),
        "initial state": InitialStateConfig(),
    }
    rows = []
    line = "{:<18} {:>14} {:>10} {:>10} {:>10}   {}"
    print(line.format("method", "trained", "peak GiB", "step ms", "tokens/s", "loss, first and last step"))
    for name, chosen in methods.items():
        try:
            row = measure(name, model, chosen, ids, options.steps)
        except torch.OutOfMemoryError:
            print(f"{name:<18} out of memory; take a smaller --share")
            break
        rows.append(row)
        losses = f"{row['loss_first']} {row['loss_last']}"
        numbers = (f"{row['trained']:,}", row["peak_gib"], row["step_ms"], f"{row['tokens_per_s']:,}")
        print(line.format(name, *numbers, losses), flush=True)
    print(f"{time.perf_counter() - start:.0f} s in all")
    if options.json:
        about = {"device": where, "packages": packages, "parameters": count, "layers": config.num_hidden_layers}
        options.json.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
