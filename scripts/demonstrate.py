"""The sample world's table: on every task, the frozen embedded model, a plain baseline and a tuned model.

    python scripts/demonstrate.py                    # ten tasks, state_offset, three seeds; cells that exist are kept
    python scripts/demonstrate.py --jobs 8 --tasks samsum,glue_rte --method lora

A cell is run as the command line would run it, with one thread where several run at once. "ahead" says by how many
standard deviations over the seeds the tuned model's mean lies above the better of the other two.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from sample_world.baselines import baseline

from ssm_tune.config.groups import benchmarks, conf_dir
from ssm_tune.config.schema import DataConfig
from ssm_tune.records.record import read_record
from ssm_tune.records.schema import Record
from ssm_tune.tasks.base import load_task
from ssm_tune.tasks.splits import hold_out_validation

HEADER = ("task", "metric", "frozen", "baseline", "", "tuned", "sd", "ahead", "s/cell")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(benchmarks()), help="names, separated by commas")
    parser.add_argument("--method", default="state_offset")
    parser.add_argument("--seeds", default="42,1042,2042")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--output-dir", default="results")
    options = parser.parse_args()
    tasks, seeds = options.tasks.split(","), options.seeds.split(",")
    cells = [(task, seed) for seed in seeds for task in tasks]
    with ThreadPoolExecutor(options.jobs) as pool:
        done = pool.map(
            lambda cell: run_settings(cell[0], cell[1], options.method, options.output_dir, options.jobs), cells
        )
        records = dict(zip(cells, done, strict=True))
    rows = [row(task, [records[task, seed] for seed in seeds]) for task in tasks]
    print(table([HEADER, *rows]))
    return 0


def run_settings(task: str, seed: str, method: str, output_dir: str, jobs: int) -> Record:
    """The record of a cell, which is run unless it has one. Raises RuntimeError with the command's last line."""
    command = [
        sys.executable,
        "-m",
        "ssm_tune",
        f"method={method}",
        f"task={task}",
        f"seed={seed}",
        "model=tiny",
        "data=sample",
        f"output_dir={output_dir}",
    ]
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if jobs > 1 else {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    path = done.stdout.rpartition("record: ")[2].strip()
    if done.returncode or not path:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise RuntimeError(f"{' '.join(command[3:])}: {lines[-1]}")
    print(f"{task} {seed}: {path}", file=sys.stderr, flush=True)
    return read_record(Path(path).parent)


def row(task: str, records: list[Record]) -> tuple[str, ...]:
    """A task's line: scores in points of its primary metric."""
    metric = records[0]["primary_metric"]
    best = [record["metrics"]["best"] for record in records]
    untrained = records[0]["metrics"]["frozen"]
    if untrained is None or None in best:
        raise RuntimeError(f"{task}: a cell diverged, or was run without the frozen model")
    tuned = [100 * one["report"][metric] for one in best if one]
    frozen = 100 * untrained["values"][metric]
    name, plain = baseline_score(task, metric)
    mean, spread = statistics.mean(tuned), statistics.stdev(tuned) if len(tuned) > 1 else float("nan")
    ahead = (mean - max(frozen, plain)) / spread if spread else float("inf")
    seconds = statistics.mean(record["seconds"]["total"] for record in records)
    return (
        task,
        metric,
        f"{frozen:.2f}",
        f"{plain:.2f}",
        name,
        f"{mean:.2f}",
        f"{spread:.2f}",
        f"{ahead:.1f}",
        f"{seconds:.0f}",
    )


def baseline_score(task_name: str, metric: str) -> tuple[str, float]:
    """What the plain answers are and their score in points, on the split that runs report."""
    section: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "task" / f"{task_name}.yaml"))
    task = load_task(section["task"])
    dataset = task.load(asdict(DataConfig(source="sample")), "standard")
    roles = task.roles("standard", dataset, None, None)
    if roles.selection == "carved":
        dataset = hold_out_validation(dataset)
    name, answers = baseline(task_name)
    reported = dataset.splits[roles.report]
    return name, 100 * task.score(answers(dataset.splits[roles.train], reported), reported).values[metric]


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns padded to their widest cell; numbers to the right."""
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(rows[0]))]
    left = {0, 1, 4}
    lines = [
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True))
        )
        for r in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
