"""A run's checkpoints on the disk: whole or absent, named with a digest, the newest two kept.

One file holds one checkpoint, in the safetensors format: tensors, and everything else as JSON in a tensor of bytes.
Its name is ``NUMBER-DIGEST.safetensors``, where the digest begins the sha256 of its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ssm_tune.utils.errors import UserError, first_line
from ssm_tune.utils.files import atomic_write, read_bytes

FOLDER = "checkpoints"
KEPT = 2
VERSION = 2
"""Raised whenever what a checkpoint holds changes."""
_NAME = re.compile(r"(\d{6,})-([0-9a-f]{16})\.safetensors")
_VALUES = "values.json"


@dataclass
class Checkpoint:
    """values: what JSON holds, and floats that are no numbers; tensors: on any device."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


class Checkpoints:
    """The checkpoints in a run's folder. about: whose they are; those of another are refused."""

    def __init__(self, run: Path, about: dict[str, Any]) -> None:
        self.folder = run / FOLDER
        self.about = {"version": VERSION, **about}

    def write(self, checkpoint: Checkpoint) -> None:
        """Write one more, then drop what is older than the newest two.

        Raises UserError where it cannot be written; the older ones are as before then.
        """
        values = json.dumps({"about": self.about, "values": checkpoint.values}).encode("ascii")
        packed = {_VALUES: torch.frombuffer(bytearray(values), dtype=torch.uint8)}
        packed |= {name: tensor.detach().contiguous() for name, tensor in checkpoint.tensors.items()}
        content = safetensors.torch.save(packed)
        files = self._files()
        number = int(files[-1].name.split("-")[0]) + 1 if files else 1
        name = f"{number:06d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        atomic_write(self.folder / name, [content])
        for old in self._files()[:-KEPT]:
            old.unlink(missing_ok=True)

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest that is whole; ``warn`` hears of damaged ones, which are kept under another name.

        Raises UserError for one that belongs to another cell, device or version of the program.
        """
        for left in self.folder.glob(".*.tmp"):  # of a process that was killed while writing
            left.unlink()
        files = self._files()
        for path in reversed(files):
            try:
                return self._read(path)
            except (ValueError, KeyError, SafetensorError) as error:
                aside = path.with_name(f"damaged-{path.name}")
                os.replace(path, aside)
                rest = "going on from the one before" if path is not files[0] else "no other is left: starting anew"
                warn(f"warning: checkpoint {path} is damaged ({first_line(error)}), kept as {aside.name}; {rest}")
        return None

    def remove(self) -> None:
        """The run is done, or starts anew. Raises UserError where they cannot be deleted."""
        try:
            shutil.rmtree(self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"cannot delete {self.folder}: {error.strerror or error}") from error

    def _files(self) -> list[Path]:
        """The oldest first."""
        return sorted(
            (path for path in self.folder.glob("*.safetensors") if _NAME.fullmatch(path.name)),
            key=lambda path: int(path.name.split("-")[0]),
        )

    def _read(self, path: Path) -> Checkpoint:
        content = read_bytes(path)
        if hashlib.sha256(content).hexdigest()[:16] != path.stem.split("-")[1]:
            raise ValueError("its content does not match its digest")
        # copies, for what lies in the file need not be aligned as computing wants it
        tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load(content).items()}
        held = json.loads(tensors.pop(_VALUES).numpy().tobytes())
        for what, wanted in self.about.items():
            if held["about"].get(what) != wanted:
                raise UserError(
                    f"checkpoint {path} does not fit this run: its {what} is {held['about'].get(what)}, not {wanted}; "
                    "run it as it was begun, or start anew with force=true"
                )
        return Checkpoint(held["values"], tensors)
