"""Synthetic records for the tests of what reads records."""

import copy
from typing import Any


def make_record(method: str = "state_offset", seed: int = 42, score: float = 0.25, **changes: Any) -> dict[str, Any]:
    """A complete record. ``changes``: dotted names with "__" for the dot, e.g. cell__protocol="paper"."""

    def values(primary: float) -> dict[str, float]:
        return {
            "rouge1": primary + 0.1,
            "rouge2": primary / 2,
            "rougeL": primary,
            "rougeL_bootstrap": primary,
        }

    record: dict[str, Any] = {
        "schema": 1,
        "status": "completed",
        "cell": {"model": "tiny", "data": "sample", "task": "samsum", "method": method, "method_options": {},
                 "protocol": "standard", "seed": seed},
        "config": {"seed": seed, "train": {"epochs": 2, "learning_rate": None}, "decode": {"batch_size": 64}},
        "config_hash": "c" * 64,
        "primary_metric": "rougeL",
        "headline": ["rouge1", "rouge2", "rougeL"],
        "splits": {"train": "train", "selection": "val", "report": "test", "selected_on_report": False},
        "metrics": {
            "frozen": {"split": "test", "values": values(0.1)},
            "best": {"epoch": 1, "step": 50, "selection": values(score), "report": values(score)},
            "last": {"epoch": 2, "step": 100, "selection": values(score - 0.02),
                     "report": values(score - 0.01)},
            "epochs": [
                {"epoch": 1, "step": 50, "train_loss": 2.5, "selection": values(score)},
                {"epoch": 2, "step": 100, "train_loss": 1.5, "selection": values(score - 0.02)},
            ],
        },
        "signatures": {"rouge": "rouge_score 0.1.2 | F1"},
        "parameters": {"trainable": 12288, "total": 1012288, "base": 1000000, "share": 12288 / 1012288},
        "learning_rate": {"value": 1e-3, "source": "default"},
        "steps": 100,
        "tokens": {"train": 5000, "generated": 700},
        "seconds": {"load": 0.5, "frozen": 4.0, "train": 20.0, "evaluate": 5.0, "total": 30.0},
        "peak_memory_bytes": 300_000_000,
        "backend": {"device": "cpu", "scan": "reference", "dtype": "float32", "adapter_dtype": "float32"},
        "hashes": {"data": "d" * 64, "model": "m" * 64, "tokenizer": "t" * 64},
        "versions": {"python": "3.11.7"},
        "git": None,
        "hardware": {"cpu": "a processor"},
        "notes": [],
        "started": "2025-01-01T00:00:00+00:00",
        "finished": "2025-01-01T00:01:00+00:00",
    }  # fmt: skip
    record = copy.deepcopy(record)
    for name, value in changes.items():
        *path, last = name.split("__")
        inner = record
        for key in path:
            inner = inner[key]
        inner[last] = value
    return record
