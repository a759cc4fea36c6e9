"""Make the embedded model from nothing: the sample world's plain text -> tokenizer -> pretrained Mamba.

    python scripts/pretrain_tiny.py            # some 12 minutes on an H200, days on two CPU cores
    python scripts/pretrain_tiny.py --check    # only: do data and settings still give the recorded hash?

Three stages, as large models are trained: many tokens of plain text, then a second, shorter stage on a mix of what
all tasks need and a third, short one on another mix (sample_world/prose.py). The text is unlabelled: the tasks'
examples are not part of it.

Writes config.json, model.safetensors (bfloat16; A_log and D float32), tokenizer.json and pretraining.json, which
records the settings, their hash together with that of the text, and the validation losses.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sample_world.prose import corpus

from ssm_tune.models.config import MambaConfig, param_dtype
from ssm_tune.models.initialization import init_weights
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.pretrained import from_pretrained, save_pretrained
from ssm_tune.tasks.base import END, SEPARATOR

TARGET = Path(__file__).resolve().parent.parent / "ssm_tune" / "models" / "tiny"

SETTINGS: dict[str, Any] = {
    "vocabulary": 2048,
    "d_model": 128,
    "n_layer": 6,
    "sequence": 160,  # tokens
    "shard_characters": 2_000_000,
    "weight_decay": 0.05,
    "seed": 0,
    # a stage's text is that of seeds first_shard, first_shard + 1, ...; the last shard validates. Batches in
    # sequences; the rate is the peak: a cosine down to 4% after the warm-up
    "stages": [
        {"first_shard": 0, "shards": 24, "batch": 160, "steps": 6000, "learning_rate": 4e-3, "warm_up": 100},
        {"first_shard": 100, "shards": 20, "batch": 256, "steps": 3400, "learning_rate": 3e-3, "warm_up": 100},
        {"first_shard": 200, "shards": 12, "batch": 160, "steps": 1600, "learning_rate": 2e-3, "warm_up": 50},
    ],
}

Shards = list[list[str]]


def stage_text(number: int) -> Shards:
    """The documents of each shard of a stage (from 1)."""
    stage = SETTINGS["stages"][number - 1]
    seeds = range(stage["first_shard"], stage["first_shard"] + stage["shards"])
    with ProcessPoolExecutor() as pool:
        return list(pool.map(corpus, seeds, repeat(SETTINGS["shard_characters"]), repeat(number)))


def data_hash(stages: list[Shards]) -> str:
    """sha256 over settings and text."""
    digest = hashlib.sha256(json.dumps(SETTINGS, sort_keys=True).encode())
    for shards in stages:
        for documents in shards:
            for document in documents:
                digest.update(document.encode() + b"\0")
    return digest.hexdigest()


def train_tokenizer(documents: list[str]) -> Tokenizer:
    """Byte-level BPE in the manner of GPT-NeoX's: NFC, no prefix blank, single digits, END = 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SEPARATOR), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SETTINGS["vocabulary"],
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def pack(tokenizer: Tokenizer, documents: list[str]) -> Tensor:
    """All documents as one row of tokens, each followed by END."""
    rows = tokenizer.encode_batch(documents)
    return torch.tensor([token for row in rows for token in [*row.ids, 0]])


def windows(tokens: Tensor, starts: Tensor) -> Tensor:
    """Rows of sequence + 1 tokens; each starts where a document does."""
    return tokens[starts.unsqueeze(1) + torch.arange(SETTINGS["sequence"] + 1)]


def document_starts(tokens: Tensor) -> Tensor:
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), (tokens == 0).nonzero().squeeze(1) + 1])
    return starts[starts < len(tokens) - SETTINGS["sequence"] - 1]


def loss_of(model: Mamba, rows: Tensor) -> Tensor:
    logits = model(rows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


@torch.no_grad()
def validation_loss(model: Mamba, tokens: Tensor, device: torch.device) -> float:
    starts = document_starts(tokens)[:2000]
    losses = [loss_of(model, windows(tokens, part).to(device)).item() for part in starts.split(100)]
    return sum(losses) / len(losses)


def optimizer_of(model: Mamba, device: torch.device) -> torch.optim.Optimizer:
    """AdamW; biases, norms, A_log and D are not decayed. The rate is a tensor, which a CUDA graph reads as it is."""
    matrices = {name for name, value in model.named_parameters() if value.dim() > 1 and "A_log" not in name}
    decayed = [value for name, value in model.named_parameters() if name in matrices]
    rest = [value for name, value in model.named_parameters() if name not in matrices]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": SETTINGS["weight_decay"]}, {"params": rest, "weight_decay": 0.0}],
        lr=torch.tensor(0.0, device=device),
        betas=(0.9, 0.95),
        capturable=device.type == "cuda",
    )


def pretrain(model: Mamba, stage: dict[str, Any], tokens: Tensor) -> None:
    """Train on windows that start at random documents."""
    device = model.device
    optimizer = optimizer_of(model.train(), device)
    rows = torch.zeros(stage["batch"], SETTINGS["sequence"] + 1, dtype=torch.int64, device=device)

    def one_step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    step_once = one_step
    if device.type == "cuda":  # thousands of small kernels a step: replaying them saves most of the time
        step_once = captured(one_step)
    generator, starts = torch.Generator().manual_seed(SETTINGS["seed"]), document_starts(tokens)
    last, begun = stage["steps"], time.time()
    for step in range(last):
        warm = min(1.0, (step + 1) / stage["warm_up"])
        rate = stage["learning_rate"] * warm * (0.52 + 0.48 * math.cos(math.pi * step / last))
        for group in optimizer.param_groups:
            group["lr"].fill_(rate)
        drawn = starts[torch.randint(len(starts), (stage["batch"],), generator=generator)]
        rows.copy_(windows(tokens, drawn))
        loss = step_once()
        if step % 50 == 0 or step == last - 1:
            print(f"step {step}  loss {loss.item():.4f}  {time.time() - begun:.0f} s", flush=True)
    model.eval()


def captured(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """``step`` as a CUDA graph. The rate is zero before the first real step, so warming up moves no weight."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


def run_stage(number: int, model: Mamba, tokenizer: Tokenizer, shards: Shards) -> float:
    """Train on one stage's text and round the weights as they are saved; the validation loss, nats a token."""
    tokens = pack(tokenizer, [document for documents in shards[:-1] for document in documents])
    print(f"stage {number}: {len(tokens):,} tokens of text", flush=True)
    pretrain(model, SETTINGS["stages"][number - 1], tokens)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(param_dtype(name, torch.bfloat16)).float()
    loss = validation_loss(model, pack(tokenizer, shards[-1]), model.device)
    print(f"stage {number}: validation loss {loss:.4f} nats a token", flush=True)
    return loss


def save(model: Mamba, tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    narrow = copy.deepcopy(model)
    narrow.cast_params(torch.bfloat16)
    save_pretrained(narrow, folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the hash of data and settings and stop")
    parser.add_argument("--out", type=Path, default=TARGET, metavar="DIR")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep each stage's model here and go on from the last")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    stages = [stage_text(number) for number in range(1, len(SETTINGS["stages"]) + 1)]
    found = data_hash(stages)
    if options.check:
        recorded = json.loads((options.out / "pretraining.json").read_text(encoding="utf-8"))["hash"]
        print(f"data and settings: {found}\nrecorded:          {recorded}")
        return 0 if found == recorded else 1
    tokenizer = train_tokenizer([document for documents in stages[0][:4] for document in documents])
    config = MambaConfig(SETTINGS["d_model"], SETTINGS["n_layer"], SETTINGS["vocabulary"])
    model, losses = init_weights(Mamba(config), SETTINGS["seed"]).to(options.device), []
    for number, shards in enumerate(stages, start=1):
        kept = options.keep / f"stage-{number}" if options.keep else None
        if kept is not None and (kept / "model.safetensors").is_file():
            model = from_pretrained(kept, "float32", options.device)
            losses.append(validation_loss(model, pack(tokenizer, shards[-1]), model.device))
            continue
        losses.append(run_stage(number, model, tokenizer, shards))
        if kept is not None:
            save(model, tokenizer, kept)
    save(model, tokenizer, options.out)
    about = {
        "settings": SETTINGS,
        "hash": found,
        "validation_losses": [round(loss, 4) for loss in losses],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    (options.out / "pretraining.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
