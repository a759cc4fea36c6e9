"""A run's checkpoints on disk: complete or absent, named with a digest, the newest two kept.

One file holds one checkpoint in the safetensors format: tensors, and everything else as JSON in a tensor of bytes. Its
name is ``NUMBER-DIGEST.safetensors``; the digest is the first 16 digits of the sha256 of its content. Files in the
folder that do not have such a name are not ours and are left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ssm_tune.utils.errors import UserError, first_line
from ssm_tune.utils.files import atomic_write, read_bytes, remove_temporary_files

FOLDER = "checkpoints"
KEPT = 2
VERSION = 3
"""Raised whenever what a checkpoint holds changes."""
_NAME = re.compile(r"(?:damaged-)?(\d{6,})-([0-9a-f]{16})\.safetensors", re.ASCII)
_VALUES = "values.json"


@dataclass
class Checkpoint:
    """values: what JSON holds, NaN and infinities included; tensors: on any device."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


class Checkpoints:
    """The checkpoints in a run's folder.

    identity: what must be the same for a checkpoint to be resumed from, by name; stored in each checkpoint.
    """

    def __init__(self, run: Path, identity: dict[str, Any]) -> None:
        self.folder = run / FOLDER
        self.identity = {"version": VERSION, **identity}

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one more, then delete those older than the newest two.

        Raises UserError where it cannot be written; the older ones stay as they were then.
        """
        values = json.dumps({"about": self.identity, "values": checkpoint.values}).encode("ascii")
        packed = {_VALUES: torch.frombuffer(bytearray(values), dtype=torch.uint8)}
        packed |= {name: tensor.detach().contiguous() for name, tensor in checkpoint.tensors.items()}
        content = safetensors.torch.save(packed)
        files = self._files()
        number = int(files[-1].name.split("-")[0]) + 1 if files else 1
        name = f"{number:06d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        atomic_write(self.folder / name, [content])
        for old in self._files()[:-KEPT]:
            with suppress(OSError):  # one too many does no harm
                old.unlink(missing_ok=True)

    def load_newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None.

        Damaged ones are renamed to ``damaged-...``, and ``warn`` is called with a line for each.
        Raises UserError for one that belongs to another run, device or version of the program.
        """
        remove_temporary_files(self.folder)
        files = self._files()
        for path in reversed(files):
            try:
                return self._read(path)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
                aside = path.with_name(f"damaged-{path.name}")
                with suppress(OSError):
                    os.replace(path, aside)
                rest = "resuming from the one before" if path is not files[0] else "no other is left, so starting over"
                warn(f"warning: checkpoint {path} is damaged ({first_line(error)}), kept as {aside.name}; {rest}")
        return None

    def delete(self) -> None:
        """Delete the checkpoints, and the folder if nothing else is in it.

        ``checkpoints`` may be a symbolic link to a folder elsewhere; the link is deleted then, and the folder stays.
        Raises UserError where a checkpoint cannot be deleted.
        """
        remove_temporary_files(self.folder)
        try:
            for path in self._files(damaged=True):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot delete {path}: {error.strerror or error}") from error
        with suppress(OSError):  # something else lies in it, or it is a mount
            if self.folder.is_symlink():
                if not any(self.folder.iterdir()):
                    self.folder.unlink()
            else:
                self.folder.rmdir()

    def _files(self, damaged: bool = False) -> list[Path]:
        """The oldest first; with ``damaged`` those set aside, too. Raises UserError where the folder is a file."""
        try:
            paths = list(self.folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"cannot read the checkpoints in {self.folder}: {error.strerror or error}") from error
        names = [path for path in paths if _NAME.fullmatch(path.name) and path.is_file()]
        ours = [path for path in names if damaged or not path.name.startswith("damaged-")]
        return sorted(ours, key=lambda path: int(path.name.removeprefix("damaged-").split("-")[0]))

    def _read(self, path: Path) -> Checkpoint:
        content = read_bytes(path)
        if hashlib.sha256(content).hexdigest()[:16] != path.stem.split("-")[1]:
            raise ValueError("its content does not match its digest")
        # copies: tensors in the file need not be aligned
        tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load(content).items()}
        stored = json.loads(tensors.pop(_VALUES).numpy().tobytes())
        for what, wanted in self.identity.items():
            if stored["about"].get(what) != wanted:
                raise UserError(
                    f"checkpoint {path} does not fit this run: its {what} is {stored['about'].get(what)}, not "
                    f"{wanted}; run it as it was started, or start over with force=true"
                )
        return Checkpoint(stored["values"], tensors)
