"""Runs that take a second: the embedded model on a few lines of one's own data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

WORDS = ("green", "red", "blue", "grey")


def write_data(path: Path, examples: int = 16) -> Path:
    """A file of examples for task=classify."""
    rows = [{"text": f"the {WORDS[i % 4]} house, number {i}", "label": "yn"[i % 3 % 2]} for i in range(examples)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(folder: Path, method: str, *more: str) -> list[str]:
    """A run on the data in ``folder``, whose results go there, too."""
    return [
        f"method={method}", "task=classify", "model=tiny", f"data.path={folder / 'data.jsonl'}", "train.max_steps=4",
        f"output_dir={folder / 'results'}", "train.epochs=1", *more,
    ]  # fmt: skip


def left(results: Path) -> dict[str, dict[str, Any]]:
    """By run folder, all that a run left that does not depend on when and in which process it ran."""
    found = {}
    for path in sorted(results.glob("runs/*/*/record.json")):
        record = json.loads(path.read_text())
        for changing in ("seconds", "started", "finished", "peak_memory_bytes", "git"):
            del record[changing]
        del record["config"]["output_dir"]
        record["config_hash"] = None  # of the output folder, too
        adapter = json.loads((path.parent / "adapter" / "adapter.json").read_text())
        files = ("steps.jsonl.gz", "predictions.jsonl.gz", "predictions-frozen.jsonl.gz")
        texts = {name: gzip.decompress((path.parent / name).read_bytes()) for name in files}
        weights = (path.parent / "adapter" / "adapter.safetensors").read_bytes()
        found[path.parent.name] = {"record": record, "adapter": adapter, "weights": weights, **texts}
    return found
