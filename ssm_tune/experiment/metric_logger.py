"""Where a run's rows go beside its own files: nowhere, or to wandb, which can never fail a run.

The rows are those of steps.jsonl and of the record's epochs. Imports wandb only where it is asked for, and no torch.
"""

from __future__ import annotations

import netrc
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ssm_tune.utils.errors import UserError, first_line

PROJECT = "ssm-tune"
"""wandb's project, unless WANDB_PROJECT names another."""
ADDRESS = "https://api.wandb.ai"
NAME_LENGTH, HASH_LENGTH = 128, 9
"""Letters that wandb's server takes in a run's name; those of the hash that ends ours, its dash included."""
REACHABLE_SECONDS = 3.0
SETTINGS = {"silent": True, "init_timeout": 30.0, "finish_timeout": 120.0}
"""Of wandb, those that the installed release knows; seconds. A server that hangs must not hold a finished run."""


class MetricLogger(Protocol):
    """Where a run's rows go."""

    def start(self, steps: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]) -> None:
        """Training begins; the rows of an earlier part of the same run, where it was resumed."""

    def log_step(self, row: Mapping[str, Any]) -> None:
        """An optimizer step, as steps.jsonl keeps it."""

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """An evaluation, as the record's metrics.epochs keeps it."""

    def finish(self, record: Mapping[str, Any] | None) -> None:
        """The run has ended; None where it left no record."""


class NoLogger:
    """``logger=none``."""

    def start(self, steps: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]) -> None: ...
    def log_step(self, row: Mapping[str, Any]) -> None: ...
    def log_epoch(self, row: Mapping[str, Any]) -> None: ...
    def finish(self, record: Mapping[str, Any] | None) -> None: ...


class WandbLogger:
    """``logger=wandb``: one wandb run for each of ours, under an id made of its hash, the same when it is resumed.

    The first error of wandb is printed in one line, and the run continues without it. An offline run is complete in
    each session: a resumed one writes the earlier rows again, since wandb cannot append to an offline run.

    folder: where wandb puts its own folder ``wandb``. key: the run's hash. config: what wandb shows beside the curves.
    """

    def __init__(
        self, wandb: Any, folder: Path, key: str, name: str, config: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        self.wandb, self.folder, self.key, self.name = wandb, folder, key, name
        self.config, self.say = dict(config), say
        self.run: Any = None
        self.failed = False

    def start(self, steps: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]) -> None:
        self._guarded(lambda: self._init(resumed=bool(steps)))
        at = {row["step"]: row for row in epochs}
        for row in steps:
            self.log_step(row)
            if row["step"] in at:
                self.log_epoch(at[row["step"]])

    def _init(self, resumed: bool) -> None:
        mode = mode_here()
        if mode == "offline":
            self.say(f"wandb: offline; wandb sync {self.folder / 'wandb' / 'offline-run-*'} uploads it later")
        known = ("silent", *getattr(self.wandb.Settings, "model_fields", ()))
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(self.folder),
            id=self.key[:32],
            name=shortened(self.name),
            config=self.config,
            mode=mode,
            resume="allow" if resumed and mode == "online" else None,
            settings=self.wandb.Settings(**{name: one for name, one in SETTINGS.items() if name in known}),
        )

    def log_step(self, row: Mapping[str, Any]) -> None:
        values = {f"train/{name}": value for name, value in row.items() if name not in ("step", "epoch")}
        self._log(row, values | {"epoch": row["epoch"]})

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        self._log(row, {f"selection/{name}": value for name, value in row["selection"].items()})

    def _log(self, row: Mapping[str, Any], values: dict[str, Any]) -> None:
        # rows below run.step reached wandb in an earlier part of the run
        if self.run is not None and row["step"] >= self.run.step:
            self._guarded(lambda: self.run.log(values, step=int(row["step"])))

    def finish(self, record: Mapping[str, Any] | None) -> None:
        if self.run is None:
            return
        run = self.run
        if record is not None:
            self._guarded(lambda: run.summary.update(_summary(record)))
        self._guarded(lambda: run.finish(exit_code=0 if record is not None else 1))
        self.run = None

    def _guarded(self, work: Callable[[], Any]) -> None:
        """Do it, unless wandb failed before; the first failure is printed."""
        if self.failed:
            return
        try:
            work()
        except Exception as error:  # wandb's errors have no common base, and none may end a run
            self.failed = True
            self.say(f"warning: wandb failed ({first_line(error)}); the run continues without it")


def shortened(name: str) -> str:
    """A run folder's name as wandb takes it: a longer one loses letters before its hash."""
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - HASH_LENGTH] + name[-HASH_LENGTH:]


def make_logger(
    wanted: str, folder: Path, key: str, name: str, config: Mapping[str, Any], say: Callable[[str], None]
) -> MetricLogger:
    """The logger that the configuration names. Raises UserError where its package is missing."""
    if wanted == "none":
        return NoLogger()
    return WandbLogger(require_wandb(), folder, key, name, config, say)


def require_wandb() -> Any:
    """The module wandb. Raises UserError where it is not installed or cannot be imported."""
    try:
        import wandb

        wandb.init  # noqa: B018  # a folder "wandb" that earlier runs left here is imported as an empty package
    except Exception as error:
        raise UserError(
            f"logger=wandb needs the package wandb ({first_line(error)}): pip install 'ssm-tune[wandb]', or logger=none"
        ) from error
    return wandb


def mode_here() -> str:
    """WANDB_MODE where it is set; else online, or offline where there is no key or the server does not answer."""
    if chosen := os.environ.get("WANDB_MODE"):
        return chosen
    address = os.environ.get("WANDB_BASE_URL", ADDRESS)
    return "online" if _has_key(address) and _answers(address) else "offline"


def _has_key(address: str) -> bool:
    """Whether wandb would find a key, in the environment or where "wandb login" puts it; else it would ask for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(address).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _answers(address: str) -> bool:
    """Whether anything at all answers there, through the proxies of the environment."""
    try:
        with urllib.request.urlopen(address, timeout=REACHABLE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def _summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """The scores that tables show, under best/ and last/."""
    found: dict[str, Any] = {"status": record["status"], "parameters": record["parameters"]["trainable"]}
    for which in ("best", "last"):
        if chosen := record["metrics"][which]:
            found |= {f"{which}/{name}": value for name, value in chosen["report"].items()}
    return found
