"""Hydra's and OmegaConf's errors as one line each, with the names that may have been meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from omegaconf import OmegaConf

from ssm_tune.config.groups import GROUPS, conf_dir, names
from ssm_tune.config.schema import Config
from ssm_tune.utils.errors import UserError, nearest


def explain(error: BaseException, arguments: list[str] | None = None) -> str:
    """One line for an error of Hydra or OmegaConf, with the nearest valid names."""
    if isinstance(error, UserError):
        return str(error)
    if misspelt := _misspelt(arguments or []):
        return misspelt
    text, cause = "", error
    while cause is not None:
        text, cause = f"{text}\n{cause}", cause.__cause__  # type: ignore[assignment]
    for pattern, explain in _EXPLANATIONS:
        found = re.search(pattern, text)
        if found:
            return str(explain(*found.groups()))
    for pattern in _UNKNOWN_KEYS:
        found = re.search(pattern, text)
        if found:
            key = found[1].lstrip("+~")
            return f"there is no setting {key!r}: {_meant(key, _known_keys(arguments or []))}"
    return " ".join(str(error).split())


def _misspelt(arguments: list[str]) -> str | None:
    """The argument that was to name a group which the command line lacks: metod=lora."""
    keys = [argument.partition("=")[0] for argument in arguments if "=" in argument and not argument.startswith("-")]
    known = {*GROUPS, *(item.name for item in fields(Config))}
    for group in GROUPS:
        if group not in keys:
            for key in keys:
                if key not in known and get_close_matches(key, [group], cutoff=0.7):
                    return f"there is no setting {key!r}: did you mean {group}?"
    return None


def setting_meant(name: str) -> str | None:
    """The setting of that name, or the one that is called so elsewhere or nearly so; None where there is none."""
    known = [*GROUPS, *_known_keys([])]
    if name in known:
        return name
    found = [*(other for other in ELSEWHERE.get(name, ()) if other in known), *get_close_matches(name, known, 1, 0.7)]
    return found[0] if found else None


def _meant(key: str, known: list[str]) -> str:
    """A hint for an unknown setting: what people call so elsewhere, else the nearest names, else where all stand."""
    last = key.rpartition(".")[2].lower()
    meant = [name for name in ELSEWHERE.get(last, ()) if name in known]
    if not meant:
        tails = {name.rpartition(".")[2]: name for name in known}
        close = [tails[tail] for tail in get_close_matches(last, list(tails), n=2, cutoff=0.6)]
        meant = list(dict.fromkeys([*get_close_matches(key, known, n=2, cutoff=0.7), *close]))
    if meant:
        return f"did you mean {' or '.join(meant)}?"
    return "ssm-tune --help lists the settings, and --cfg job all of a run's with their values"


def _unknown_choice(group: str, name: str) -> str:
    if "/" in name or name.endswith(".yaml"):
        there = ", ".join(names(group))
        return (
            f"{group}={name}: {group} takes a name, not a path; there are {there}. A single run finds a file of yours, "
            f"FOLDER/{group}/NAME.yaml, by {group}=NAME 'hydra.searchpath=[file:///FOLDER]'"
        )
    return f"there is no {group} {name!r}: {nearest(name, names(group))}"


def _missing_choice(group: str) -> str:
    return f"{group} is not given: add {group}=NAME, one of {', '.join(names(group))}"


def _wrong_value(value: str, wanted: str, key: str) -> str:
    # OmegaConf's words, and Python's, which it uses for others
    kinds = {"integer": "int", "boolean": "bool", "string": "str"}
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    kind = kinds.get(wanted.lower(), wanted.lower())
    return f"{key} must be {words.get(kind, wanted)}, got {value!r}"


def _bad_syntax(text: str) -> str:
    return f"cannot read the argument {text!r}: settings are given as key=value (quote values with blanks or commas)"


def _not_a_value(key: str) -> str:
    return f"{key} is a group of settings and takes no plain value"


ELSEWHERE = {
    "lr": ("train.learning_rate",),
    "learning_rate": ("train.learning_rate",),
    "bs": ("train.batch_size",),
    "batch": ("train.batch_size",),
    "batch_size": ("train.batch_size", "decode.batch_size"),
    "per_device_train_batch_size": ("train.batch_size",),
    "per_device_eval_batch_size": ("decode.batch_size",),
    "gradient_accumulation_steps": ("train.micro_batch",),
    "grad_accum": ("train.micro_batch",),
    "gradient_checkpointing": ("train.recompute",),
    "epoch": ("train.epochs",),
    "epochs": ("train.epochs",),
    "num_epochs": ("train.epochs",),
    "num_train_epochs": ("train.epochs",),
    "steps": ("train.max_steps",),
    "max_steps": ("train.max_steps",),
    "iters": ("train.max_steps",),
    "lr_scheduler": ("train.lr_schedule",),
    "lr_scheduler_type": ("train.lr_schedule",),
    "scheduler": ("train.lr_schedule",),
    "warmup": ("train.lr_warmup",),
    "warmup_ratio": ("train.lr_warmup",),
    "warmup_steps": ("train.lr_warmup",),
    "limit": ("splits.limit",),
    "fast_dev_run": ("splits.limit",),
    "max_train_samples": ("splits.limit",),
    "wd": ("train.weight_decay",),
    "decay": ("train.weight_decay",),
    "weight_decay": ("train.weight_decay",),
    "clip": ("train.max_grad_norm",),
    "grad_clip": ("train.max_grad_norm",),
    "gradient_clip_val": ("train.max_grad_norm",),
    "adam_beta1": ("train.beta1",),
    "adam_beta2": ("train.beta2",),
    "adam_epsilon": ("train.eps",),
    "eval_steps": ("train.evaluate_every",),
    "eval_every": ("train.evaluate_every",),
    "save_steps": ("checkpoint.steps",),
    "r": ("method.rank",),
    "lora_r": ("method.rank",),
    "lora_rank": ("method.rank",),
    "rank": ("method.rank",),
    "lora_alpha": ("method.alpha",),
    "alpha": ("method.alpha",),
    "lora_dropout": ("method.dropout",),
    "dropout": ("method.dropout",),
    "target_modules": ("method.targets",),
    "num_virtual_tokens": ("method.tokens",),
    "prompt_length": ("method.tokens",),
    "beams": ("decode.num_beams",),
    "num_beams": ("decode.num_beams",),
    "max_length": ("decode.max_new_tokens",),
    "max_new_tokens": ("decode.max_new_tokens",),
    "output": ("output_dir",),
    "out": ("output_dir",),
    "out_dir": ("output_dir",),
    "results": ("output_dir",),
    "save_dir": ("output_dir",),
    "gpu": ("device",),
    "cuda": ("device",),
    "dtype": ("model.dtype", "train.adapter_dtype"),
    "precision": ("model.dtype",),
    "bf16": ("model.dtype",),
    "fp16": ("model.dtype",),
    "model_path": ("model.path",),
    "model_name": ("model.name",),
    "checkpoint": ("model.path", "checkpoint.minutes"),
    "tokenizer": ("model.tokenizer",),
    "data_path": ("data.path",),
    "data_dir": ("data.path",),
    "dataset": ("data.path", "data.source"),
    "train_file": ("data.path",),
    "random_seed": ("seed",),
    "rng": ("seed",),
    "wandb": ("logger",),
    "report_to": ("logger",),
    "overwrite": ("force",),
}
"""Settings by the names that they have in other programs."""
_EXPLANATIONS: list[tuple[str, Callable[..., str]]] = [
    (r"Could not find '(hydra/\w+|\w+)/([^'\n]+)'", _unknown_choice),
    (r"You must specify '(\w+)'", _missing_choice),
    (r"Value '([^'\n]*)' of type '\w+' could not be converted to (\w+)\s+full_key: (\S+)", _wrong_value),
    (r"Value '([^'\n]*)' is not a valid (\w+).*\s+full_key: (\S+)", _wrong_value),
    (r"Error parsing override '([^'\n]*)'", _bad_syntax),
    (r"LexerNoViableAltException: ([^\n]*)", _bad_syntax),
    (r"Error merging override (\w+)=", _not_a_value),
]
_UNKNOWN_KEYS = (r"Could not override '([^'\n]+)'", r"Key '\w+' (?:is not in struct|not in '\w+')\s+full_key: (\S+)")


def _known_keys(arguments: list[str]) -> list[str]:
    """Every setting that this command line could take, dotted: the shared ones, those of its model, task, method."""
    keys = set(_dotted(OmegaConf.to_container(OmegaConf.structured(Config)), ""))
    chosen = dict(argument.lstrip("+").split("=", 1) for argument in arguments if "=" in argument)
    for group in ("model", "task", "method"):
        for name in chosen.get(group, "").split(",") if group in chosen else names(group):
            path = conf_dir() / group / f"{name}.yaml"
            if path.is_file():
                section = OmegaConf.to_container(OmegaConf.load(path))
                assert isinstance(section, dict)
                keys |= set(_dotted(section.get(group, section), f"{group}."))
    return sorted(keys)


def _dotted(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        elif value != "???" and key not in ("defaults", "_target_", "published"):
            yield f"{prefix}{key}"
