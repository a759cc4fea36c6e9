"""hydra/launcher=serial, the default: one cell after another, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra_plugins.ssm_tune_launchers.base import CellLauncher, tell


class SerialLauncher(CellLauncher):
    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        from ssm_tune.records.run_id import labels_of
        from ssm_tune.sweeps.run_sweep import returned
        from ssm_tune.sweeps.worker import Outcome, run_cell

        jobs = []
        for number, (label, overrides) in enumerate(zip(labels_of(job_overrides), job_overrides, strict=True), start=1):
            tell(f"cell {number} of {len(job_overrides)}: {label}")
            try:
                outcome = run_cell(overrides)
            except KeyboardInterrupt:
                outcome = Outcome("stopped", "interrupted", exit=130)
            if outcome.line:
                tell(f"ssm-tune: cell {number} {outcome.status}: {outcome.line}")
            jobs.append(returned(overrides, outcome))
            if outcome.status == "stopped" or (self.stop_on_error and outcome.status in ("failed", "diverged")):
                break
        return jobs
