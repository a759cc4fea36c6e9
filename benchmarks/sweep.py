"""A sweep with a process for each run, and the same in workers that do many; in turn, on the same machine."""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from benchmarks.table import Row, Table
from ssm_tune.records.provenance import hardware
from ssm_tune.sweeps.sweep_file import read_sweep
from ssm_tune.sweeps.worker_process import WorkerProcess, wait_for_any
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.phases import PHASES

DEFAULT = (
    "task=glue_rte,samsum", "method=state_offset,lora,bitfit,full", "model=tiny", "data=sample", "seed=42,1042",
    "train.epochs=1", "train.max_steps=80", "decode.num_beams=1",
)  # fmt: skip
"""Two tasks of the sweep "tiny", as that has them."""
ROUNDS = 4
"""Times that each way gets its turn: what else the machine does meets both."""
COLUMNS = {"way": 22, "runs": 5, "s a run": 8, "runs/hour": 10, "CPU s a run": 12}


@dataclass
class Way:
    """How runs are given processes. kept: whether a process does more than one. seconds, cpu: that its rounds took."""

    name: str
    kept: bool
    folder: Path
    workers: list[WorkerProcess]
    seconds: float = 0.0
    cpu: float = 0.0
    done: list[Path] = field(default_factory=list)

    def run(self, runs: Sequence[Sequence[str]]) -> None:
        """Do some runs, as many at once as there are processes. Raises UserError for one that fails."""
        begun, waiting, free = time.perf_counter(), list(runs), list(self.workers)
        busy: list[WorkerProcess] = []
        while waiting or busy:
            while waiting and free:
                busy.append(free.pop())
                busy[-1].give([*waiting.pop(0), f"output_dir={self.folder}"], self.folder / "log")
            wait_for_any(busy, 60)
            for worker in list(busy):
                if (outcome := worker.outcome(wait=False)) is None:
                    continue
                if outcome.record is None or outcome.status != "done":
                    raise UserError(f"a run {outcome.status}: {outcome.line or outcome.record}")
                self.done.append(Path(outcome.record))
                busy.remove(worker)
                free.append(worker)
                if not self.kept:
                    worker.end()
        self.seconds += time.perf_counter() - begun

    def end(self) -> None:
        for worker in self.workers:
            worker.end()


def run(settings: Sequence[str], processes: int | None, file: TextIO) -> dict[str, Any]:
    """Time a sweep both ways. settings: as behind ``ssm-tune -m``; processes: at a time, None: one a core.

    Raises UserError for settings that no sweep has, and for a run that fails.
    """
    runs = [one.overrides for one in read_sweep(settings or DEFAULT).runs]
    count = processes or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ways = [_way(name, kept, Path(folder), count) for name, kept in (("a process a run", False), ("workers", True))]
        for way in ways:
            stack.callback(way.end)
        for number in range(ROUNDS):
            for way in ways if number % 2 == 0 else reversed(ways):
                before = _children_cpu()
                way.run(runs[number::ROUNDS])
                way.cpu += _children_cpu() - before  # of processes that have ended
        before = _children_cpu()
        ways[1].end()
        ways[1].cpu += _children_cpu() - before
        about = f"{len(runs)} runs, {count} at a time, {hardware()['cpu']}, in {ROUNDS} rounds by turns"
        rows = Table(COLUMNS).print(about, map(_row, ways), _line, file)
        print(*_phases(rows), sep="\n", file=file, flush=True)
    return {"settings": list(settings or DEFAULT), "processes": count, "hardware": hardware(), "rows": rows}


def _way(name: str, kept: bool, folder: Path, count: int) -> Way:
    place = folder / name.replace(" ", "-")
    place.mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return Way(name, kept, place, [WorkerProcess(environment) for _ in range(count)])


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _row(way: Way) -> Row:
    """What a way took. seconds: of the mean run, by phase."""
    records = [json.loads(path.read_bytes())["seconds"] for path in way.done]
    count = len(records)
    mean = {name: sum(record[name] or 0.0 for record in records) / count for name in PHASES}
    return {
        "way": way.name,
        "runs": count,
        "seconds_a_run": way.seconds / count,
        "cpu": way.cpu / count,
        "phases": mean,
    }


def _line(row: Row) -> str:
    cells = {
        "way": row["way"],
        "runs": str(row["runs"]),
        "s a run": f"{row['seconds_a_run']:.2f}",
        "runs/hour": f"{3600 / row['seconds_a_run']:.0f}",
        "CPU s a run": f"{row['cpu']:.2f}",
    }
    return Table(COLUMNS).line(cells)


def _phases(rows: Sequence[Row]) -> list[str]:
    """The mean run by phase, a line a way."""
    names = [name for name in PHASES if any(row["phases"][name] for row in rows)]
    table = Table({"seconds of a run": 22} | dict.fromkeys(names, 9))
    lines = [table.titles()]
    for row in rows:
        cells = {name: f"{row['phases'][name]:.2f}" for name in names}
        lines.append(table.line({"seconds of a run": row["way"], **cells}))
    return lines
