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
        from ssm_tune.sweeps.one_run import Outcome
        from ssm_tune.sweeps.run_sweep import returned
        from ssm_tune.sweeps.status import note_crash

        outcomes, labels = dict[int, Outcome](), labels_of(job_overrides)
        with InARow(on_death=note_crash) as row:
            for group in self.groups or [[number] for number in range(len(job_overrides))]:
                for number in group:
                    tell(f"run {number + 1} of {len(job_overrides)}: {labels[number]}")
                runs = [job_overrides[number] for number in group]
                found = [row.run(runs[0])] if len(runs) == 1 else row.run_together(runs, self.together)
                outcomes |= dict(zip(group, found, strict=True))
                for number, outcome in zip(group, found, strict=True):
                    if outcome.line:
                        tell(f"ssm-tune: run {number + 1} {outcome.status}: {outcome.line}")
                bad = ("stopped", "failed", "diverged") if self.stop_on_error else ("stopped",)
                if row.stopped or any(outcome.status in bad for outcome in found):
                    break
        return [returned(run, outcomes.get(i, Outcome("not run"))) for i, run in enumerate(job_overrides)]
