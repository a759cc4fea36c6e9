"""hydra/launcher=serial, the default: one run after another, in one worker process.

A run that takes the process with it (a segmentation fault, the kernel's out-of-memory killer) fails alone: a new worker
does the rest, and the next sweep passes the run over (ssm_tune/sweeps/run_sweep.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra_plugins.ssm_tune_launchers.base import RunLauncher, tell


class SerialLauncher(RunLauncher):
    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        from ssm_tune.records.run_id import labels_of
        from ssm_tune.sweeps.in_a_row import InARow
        from ssm_tune.sweeps.run_sweep import returned
        from ssm_tune.sweeps.status import note_crash

        jobs = []
        with InARow(on_death=note_crash) as row:
            labels = labels_of(job_overrides)
            for number, (label, overrides) in enumerate(zip(labels, job_overrides, strict=True), start=1):
                tell(f"run {number} of {len(job_overrides)}: {label}")
                outcome = row.run(overrides)
                if outcome.line:
                    tell(f"ssm-tune: run {number} {outcome.status}: {outcome.line}")
                jobs.append(returned(overrides, outcome))
                failed = outcome.status in ("failed", "diverged")
                if row.stopped or outcome.status == "stopped" or (self.stop_on_error and failed):
                    break
        return jobs
