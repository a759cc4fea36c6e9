"""A run's identity: what determines its result, hashed into the name of its folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ssm_tune.config.groups import model_label
from ssm_tune.config.protocol import published_data, resolved_protocol
from ssm_tune.config.tuned import batch_size_of, learning_rate_of

if TYPE_CHECKING:
    from ssm_tune.config.schema import Config

EXECUTION = {
    "train": ("cuda_graphs", "micro_batch", "deterministic", "recompute", "memory"),
    "decode": ("batch_size",),
}
"""Settings that say how a run is computed, and move its numbers by rounding at most: no part of its identity."""
_NULLS = ("rank", "scale", "a_init")
"""Options of methods that are asked for even where they are null. An option that is younger than these is not, so that
a request from before it stays the same."""
LATER_TRAIN = {"lr_schedule": "linear", "lr_warmup": 0.0}
"""Settings of ``train`` that older records do not have, with the defaults that stand for what those did."""
NAMING = ("model=", "task=", "method=", "method.", "seed=")
"""What a run is called by, as overrides begin."""
ASKED_FOR = ("model", "task", "method", "data", "splits", "train", "decode", "seed", "protocol", "backend")
"""Settings that say which run it is."""


def without_later_defaults(train: dict[str, Any]) -> dict[str, Any]:
    """A ``train`` section without those of LATER_TRAIN that have the default, so that older runs keep their names."""
    return {name: value for name, value in train.items() if name not in LATER_TRAIN or value != LATER_TRAIN[name]}


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def folder_name(run: dict[str, Any], key: str) -> str:
    """A readable name, safe on every file system, with the first 8 digits of ``key``."""
    options = "".join(f"-{name}={value}" for name, value in sorted(run["method_options"].items()))
    name = f"{run['data']}-{run['model']}-{run['method']}{options}-{run['protocol']}-s{run['seed']}"
    return f"{re.sub(r'[^A-Za-z0-9=._-]+', '_', name)[:120]}-{key[:8]}"


def request_of(config: Config) -> dict[str, Any]:
    """What determines a run's result, as far as it is known before data and model are read.

    Two configurations with one request ask for one run. What a name, a tuned file or the protocol stands for is
    resolved; where files lie is left out if they go by a name, and how the run is computed always.
    """
    asked = {name: value for name, value in asdict(config).items() if name in ASKED_FOR}
    for section, settings in EXECUTION.items():
        for setting in settings:
            asked[section].pop(setting, None)
    asked["method"] = {key: value for key, value in config.method.items() if value is not None or key in _NULLS}
    narrow = config.tuned["adapter_dtype"] if config.train.adapter_dtype == "auto" else config.train.adapter_dtype
    if config.train.cuda_graphs == "off" and narrow in ("bfloat16", "float16"):  # AdamW rounds otherwise
        asked["train"]["cuda_graphs"] = "off"
    asked["train"] = without_later_defaults(asked["train"])
    if asked["splits"]["limit"] is None:  # as in records older than the setting
        del asked["splits"]["limit"]
    data, model = asked["data"], asked["model"]
    label = model_label(model)
    asked["protocol"] = resolved_protocol(config.protocol, data)
    asked["train"]["learning_rate"] = learning_rate_of(config, label)[0]
    asked["train"]["batch_size"] = batch_size_of(config, label)
    if config.train.adapter_dtype == "auto":  # bfloat16 for tuned rates that were found with it
        asked["rates"] = learning_rate_of(config, label)[1]
    if data["name"] is not None or published_data(data):
        del data["path"]
    if model["source"] == "folder" and model["name"] is not None:
        del model["path"]
    return asked


def request_hash(config: Config) -> str:
    """sha256 (hex) of ``request_of``, which the record of the run holds."""
    return digest(request_of(config))


def label_of(overrides: Sequence[str]) -> str:
    """A run in words: its settings without those that say where and how it runs."""
    hidden = ("hydra/", "hydra.", "output_dir=", "sweep", "-")
    return " ".join(item for item in overrides if not item.lstrip("+~").startswith(hidden) and not item.startswith("-"))


def labels_of(runs: Sequence[Sequence[str]]) -> list[str]:
    """The same of several runs, in no more words than tell them apart: of the settings that name a run those that are
    not common to all, and of the others what runs that are named alike do not share."""
    common = frozenset.intersection(*map(frozenset, runs)) if len(runs) > 1 else frozenset()
    named = [[item for item in run if item.lstrip("+").startswith(NAMING) and item not in common] for run in runs]
    alike: dict[tuple[str, ...], list[int]] = {}
    for number, items in enumerate(named):
        alike.setdefault(tuple(items), []).append(number)
    labels = []
    for run, items in zip(runs, named, strict=True):
        others = alike[tuple(items)]
        shared = frozenset.intersection(*(frozenset(runs[number]) for number in others)) if len(others) > 1 else run
        label = label_of([item for item in run if item in items or item not in shared])
        labels.append(label or label_of([item for item in run if item.startswith(NAMING)]) or "the run")
    return labels
