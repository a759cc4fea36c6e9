"""Mamba-2's scan on this GPU, every case in a process of its own (not a test, though the tests run its cases):

PYTHONPATH=.:tests python tests/gpu/check_ssd.py; python -m benchmarks ssd

One line a case: the largest error over that of rounding (2 are allowed), or what failed and where it was launched. A
case that fails runs again with each of VARIANTS, which tells whose fault it is. --case N runs one case alone, as for
compute-sanitizer python tests/gpu/check_ssd.py --case 9
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from helpers.ssd_gpu_cases import CASES, errors_of, name_of

TESTS = Path(__file__).parent.parent
ALLOWED = 2.0
TIMEOUT = 240
VARIANTS: dict[str, dict[str, dict[str, int]]] = {
    "no prefetch": {"WALK": {"stages": 1}},
    "four warps a walk": {"WALK": {"warps": 4}},
    "two warps, so no wgmma": {name: {"warps": 2, "stages": 1} for name in ("WALK", "OUTPUTS", "HEADS", "SHARED")},
}
"""Other configurations of the kernels, by name: what they change of the ``Tuning`` in ``layout.py``."""


def take(variant: str) -> None:
    """Put a variant's configurations in the place of the kernels' own."""
    from ssm_tune.ops.state_space_dual.gpu import backward, forward, layout

    for name, changes in VARIANTS[variant].items():
        for module in (layout, forward, backward):
            if hasattr(module, name):
                setattr(module, name, getattr(layout, name)._replace(**changes))


def poison() -> None:
    """Uninitialised memory holds NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True


def run_case(number: int, variant: str | None) -> dict[str, Any]:
    """``worst`` of the case, or ``failed``: the error and the file and line of ours where it was raised."""
    poison()
    if variant is not None:
        take(variant)
    try:
        return {"worst": errors_of(CASES[number])}
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "ssm_tune" in frame.filename]
        where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''}{where}"}


def in_a_process(number: int, variant: str | None = None) -> dict[str, Any]:
    """``run_case`` elsewhere: what it breaks is not ours."""
    command = [sys.executable, "-W", "ignore", __file__, "--case", str(number)]
    command += [] if variant is None else ["--variant", variant]
    paths = [str(TESTS.parent), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    # launches that block: so the one that fails is named
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_LAUNCH_BLOCKING": "1"}
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        found = json.loads(lines[-1]) if lines else {"failed": f"exit status {done.returncode}: {done.stderr[-200:]}"}
    except subprocess.TimeoutExpired:
        found = {"failed": f"no answer in {TIMEOUT} s"}
    return found | {"seconds": time.monotonic() - start}


def is_right(found: dict[str, Any]) -> bool:
    return "worst" in found and found["worst"][0] <= ALLOWED


def line(number: int, label: str, found: dict[str, Any]) -> str:
    if "worst" in found:
        ratio, name = found["worst"][:2]
        said = f"{ratio:8.2f} {name}"
    else:
        said = found["failed"]
    return f"{number:3d} {'ok  ' if is_right(found) else 'FAIL'} {found['seconds']:4.0f} s  {label:86s} {said}"


def check_all(processes: int) -> bool:
    """Print a line a case, those of variants where it fails; returns whether all are right."""
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; error over that of rounding, at most {ALLOWED}")
    wrong = []
    with ThreadPoolExecutor(processes) as pool:
        for number, found in enumerate(pool.map(in_a_process, range(len(CASES)))):
            print(line(number, name_of(CASES[number]), found), flush=True)
            if not is_right(found):
                wrong.append(number)
        again = [(number, variant) for number in wrong for variant in VARIANTS]
        for (number, variant), found in zip(again, pool.map(lambda pair: in_a_process(*pair), again), strict=True):
            print(line(number, f"  {variant}", found), flush=True)
    print(f"{len(CASES) - len(wrong)} of {len(CASES)} cases are right")
    return not wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Mamba-2's scan on this GPU, case by case")
    parser.add_argument("--case", type=int)
    parser.add_argument("--variant", choices=list(VARIANTS))
    parser.add_argument("--processes", type=int, default=8)
    options = parser.parse_args()
    if options.case is None:
        sys.exit(0 if check_all(options.processes) else 1)
    print(json.dumps(run_case(options.case, options.variant)), flush=True)
