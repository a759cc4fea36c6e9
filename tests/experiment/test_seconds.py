"""A record says where the run's time went, and the phases are all of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ssm_tune.cli import main
from ssm_tune.records.record import read_record
from ssm_tune.tasks.glue import Glue
from ssm_tune.utils.phases import PHASES

CELL = ["method=state_offset_y", "task=glue_rte", "model=tiny", "data=sample", "train.max_steps=2"]
LARGE = ("torch._dynamo.eval_frame", "sympy", "datasets", "transformers", "matplotlib", "triton")


def seconds_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("runs/*/*/record.json")
    return dict(read_record(path)["seconds"])


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float, set[str]]:
    """A run in a process of its own: its seconds, those that passed here, and the modules that it has imported."""
    folder = tmp_path_factory.mktemp("run")
    code = "import sys, json; from ssm_tune.cli import main; status = main(sys.argv[2:])\n"
    code += "open(sys.argv[1], 'w').write(json.dumps(list(sys.modules))); sys.exit(status)"
    command = [sys.executable, "-c", code, str(folder / "modules"), *CELL, f"output_dir={folder}"]
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    passed = time.perf_counter() - begun
    return seconds_of(folder), passed, set(json.loads((folder / "modules").read_text()))


def test_the_phases_are_the_time_since_the_process_began(ran: tuple[dict[str, Any], float, set[str]]) -> None:
    seconds, passed, _ = ran
    assert sum(seconds[name] or 0.0 for name in PHASES) == pytest.approx(seconds["total"])
    assert seconds["total"] <= passed + 0.02  # the system counts in hundredths
    assert all(
        seconds[name] > 0 for name in ("start", "import", "data", "model", "frozen", "train", "evaluate", "write")
    )
    assert seconds["kernels"] is seconds["capture"] is None  # there are none on a CPU
    assert seconds["load"] == pytest.approx(sum(seconds[name] for name in ("start", "import", "data", "model")))


def test_a_run_imports_what_it_needs(ran: tuple[dict[str, Any], float, set[str]]) -> None:
    assert not ran[2] & set(LARGE)


def test_scores_that_are_kept_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is scikit-learn imported before the first step, where the base model's scores are kept."""
    scored: list[int] = []
    score = Glue.score

    def counted(self: Glue, outputs: Any, examples: Any) -> Any:
        scored.append(len(examples))
        return score(self, outputs, examples)

    monkeypatch.setattr(Glue, "score", counted)
    for seed in (1, 2):
        assert main([*CELL, f"seed={seed}", f"output_dir={tmp_path}"]) == 0
    # the base model on val; carved and val of either run; each as predicted, and by the likeliest label
    assert scored == [size for size in (300, 100, 300, 100, 300) for _ in range(2)]
    one, other = (read_record(path) for path in sorted(tmp_path.glob("runs/*/*/record.json")))
    assert one["metrics"]["frozen"] == other["metrics"]["frozen"]
