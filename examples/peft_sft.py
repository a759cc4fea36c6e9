"""Supervised fine-tuning of a small Mamba-2 or hybrid model with state offsets: transformers, peft and TRL.

    python examples/peft_sft.py                      # a random model shaped like Falcon-H1, about a minute on a CPU
    python examples/peft_sft.py --checkpoint FOLDER  # a Mamba-2 checkpoint in the layout of state-spaces/mamba2-*

The data are made here: a line names a person and a town, and the answer says them in another order. The loss on answers
that training has not seen is printed before and after, and has to fall. Needs ``pip install 'ssm-tune[peft]' trl``.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import FalconH1Config, FalconH1ForCausalLM, Mamba2Config, Mamba2ForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

import ssm_tune.peft  # noqa: F401  # registers the methods, as an adapter that is loaded needs
from ssm_tune.peft import StateOffsetConfig

NAMES = ["Anna", "Bela", "Chen", "Dora", "Emil", "Fatou", "Goran", "Hana"]
TOWNS = ["Arles", "Bonn", "Cork", "Delft", "Evora", "Faro", "Ghent", "Hull"]


def rows(count: int, seed: int) -> Dataset:
    """Prompts and answers; which person belongs to which town has to be learned."""
    draw = random.Random(seed)
    homes = dict(zip(NAMES, TOWNS, strict=True))
    chosen = [draw.sample(NAMES, 2) for _ in range(count)]
    return Dataset.from_list(
        [{"prompt": f"{a} and {b} :", "completion": f" {homes[a]} then {homes[b]} ."} for a, b in chosen]
    )


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, for the random model."""
    words = ["<pad>", "<eos>", "<unk>", ":", ".", "and", "then", *NAMES, *TOWNS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="right"
    )


def random_hybrid(vocabulary: int) -> FalconH1ForCausalLM:
    """Two layers with a Mamba-2 mixer beside attention each, with random weights."""
    torch.manual_seed(0)
    return FalconH1ForCausalLM(
        FalconH1Config(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            mamba_d_ssm=256,
            mamba_n_heads=8,
            mamba_d_head=32,
            mamba_d_state=32,
            mamba_n_groups=1,
            mamba_chunk_size=16,
            initializer_range=0.1,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )


def converted(folder: Path) -> tuple[Mamba2ForCausalLM, PreTrainedTokenizerFast]:
    """A checkpoint in the layout of state-spaces/mamba2-* as transformers' model, with its tokenizer."""
    layout = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights = {name.replace("backbone.embedding.", "backbone.embeddings."): value for name, value in weights.items()}
    heads, width = weights["backbone.layers.0.mixer.A_log"].shape[0], layout["d_model"]
    inner = weights["backbone.layers.0.mixer.norm.weight"].shape[0]
    conv = weights["backbone.layers.0.mixer.conv1d.weight"].shape[0]
    config = Mamba2Config(
        vocab_size=weights["backbone.embeddings.weight"].shape[0],
        hidden_size=width,
        num_hidden_layers=layout["n_layer"],
        num_heads=heads,
        head_dim=inner // heads,
        state_size=(conv - inner) // 2,
        n_groups=1,
        expand=inner // width,
        chunk_size=16,
        tie_word_embeddings=layout.get("tie_embeddings", True),
        layer_norm_epsilon=1e-5,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = Mamba2ForCausalLM(config)
    missing = model.load_state_dict(weights, strict=False)
    if missing.unexpected_keys or set(missing.missing_keys) - {"lm_head.weight"}:
        raise SystemExit(f"{folder} is no Mamba-2 checkpoint of this layout: {missing}")
    model.tie_weights()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    return model.float(), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a Mamba-2 checkpoint; without it a random hybrid")
    parser.add_argument("--steps", type=int, help="(default: 60, or 15 with a checkpoint)")
    options = parser.parse_args()
    if options.checkpoint is None:
        tokenizer = word_tokenizer()
        model: Any = random_hybrid(len(tokenizer))
    else:
        model, tokenizer = converted(options.checkpoint)
    base = {name: value.clone() for name, value in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            max_steps=options.steps or (60 if options.checkpoint is None else 15),
            per_device_train_batch_size=8,
            per_device_eval_batch_size=8,
            learning_rate=1e-1 if options.checkpoint is None else 2e-2,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            seed=0,
        )
        trainer = SFTTrainer(
            model=get_peft_model(model, StateOffsetConfig(task_type="CAUSAL_LM")),
            args=settings,
            train_dataset=rows(256, seed=0),
            eval_dataset=rows(32, seed=1),
            processing_class=tokenizer,
        )
        trainer.model.print_trainable_parameters()
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        after = trainer.evaluate()["eval_loss"]
        trainer.model.save_pretrained(folder)
        fresh = type(model)(model.config)
        fresh.load_state_dict(base)
        tuned = PeftModel.from_pretrained(fresh, folder).eval()
        prompt = tokenizer("Anna and Bela :", return_tensors="pt")
        answer = tuned.generate(input_ids=prompt["input_ids"], max_new_tokens=4, do_sample=False)
    print("answer:", tokenizer.decode(answer[0]))
    print(f"loss of the base model {before:.3f}, with the adapter {after:.3f}")
    if not (math.isfinite(after) and after < before):
        raise SystemExit("the loss did not fall")


if __name__ == "__main__":
    main()
