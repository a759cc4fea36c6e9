"""What makes two command lines ask for one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssm_tune.config.compose import compose
from ssm_tune.records.record import find_records
from ssm_tune.records.run_id import request_hash
from ssm_tune.records.where import shipped_dir

RUN = ["method=lora", "task=samsum", "model=tiny", "data=sample"]


def asked(*settings: str) -> str:
    return request_hash(compose([*RUN, *settings]))


@pytest.mark.parametrize(
    "settings",
    [
        ["protocol=standard"],
        ["tuned=tiny"],
        ["train.micro_batch=2", "train.recompute=on", "train.deterministic=true", "decode.batch_size=3"],
        ["output_dir=elsewhere", "device=cpu", "force=true", "frozen=false", "checkpoint.minutes=1", "logger=wandb"],
    ],
    ids=" ".join,
)
def test_the_same_run(settings: list[str]) -> None:
    assert asked(*settings) == asked()


@pytest.mark.parametrize(
    "setting",
    [
        *("train.epochs=3", "seed=1", "method.rank=4", "train.learning_rate=0.5", "decode.num_beams=1"),
        *("model=random", "protocol=paper", "train.batch_size=5", "splits.report=val", "backend=reference"),
    ],
)
def test_another_run(setting: str) -> None:
    assert asked(setting) != asked()


def test_a_name_stands_for_a_folder_wherever_it_lies(tmp_path: Path) -> None:
    def local(path: str, *settings: str) -> str:
        return asked("model=local", f"model.path={path}", *settings)

    assert local("one", "model.name=m") == local("other", "model.name=m")
    assert local("one") != local("other")


def test_every_committed_record_reads() -> None:
    results = shipped_dir()
    if not (results / "runs").is_dir():
        pytest.skip("the results lie in a checkout alone")
    found, warnings = find_records(results)
    assert len(found) >= 594
    assert not warnings
