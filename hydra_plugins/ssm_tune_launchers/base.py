"""What the launchers share. Hydra looks for launchers in this namespace package, and nowhere else.

Each returns an outcome a run, in the runs' order, and loses none of them when one run, or one job, dies.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ssm_tune.utils.errors import UserError
from ssm_tune.utils.text import printable


class RunLauncher(Launcher):
    """Keeps what ``setup`` gives. ``launch`` is left to each."""

    stop_on_error = False
    groups: Sequence[list[int]] = ()
    """the runs' numbers, those that train together in one list; none: each by itself"""
    together: int | None = 1
    folder = Path()
    """of the logs of this multirun; not made yet"""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.stop_on_error = bool(getattr(task_function, "stop_on_error", False))
        self.groups, self.together = getattr(task_function, "groups", ()), getattr(task_function, "together", 1)
        self.folder = Path(config.hydra.sweep.dir)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        raise NotImplementedError

    def make_folder(self) -> Path:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output_dir: cannot write {self.folder} ({error.strerror})") from error
        return self.folder


def tell(line: str) -> None:
    """Print a line on stderr, whatever names of files and errors of others it holds."""
    print("\n".join(map(printable, line.split("\n"))), file=sys.stderr, flush=True)
