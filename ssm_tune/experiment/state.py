"""What a run gathers on its way, and the record made of it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

import ssm_tune
from ssm_tune.experiment.setup import Prepared
from ssm_tune.generation.predict import Predictions
from ssm_tune.methods.base import Adapter
from ssm_tune.models.load import name_of
from ssm_tune.records.provenance import git_state, hardware, versions
from ssm_tune.records.run_id import digest, request_hash
from ssm_tune.records.schema import SCHEMA, Record
from ssm_tune.records.trial import TRIAL_SCHEMA, Trial
from ssm_tune.tasks.base import Scored
from ssm_tune.training.trainer import TrainResult

NO_PART_OF_A_TRIAL = ("schema", "metrics", "headline")


@dataclass(frozen=True)
class Answers:
    """A model's outputs on a split and what they score."""

    outputs: list[str]
    scored: Scored


@dataclass
class Evaluated:
    """The adapter after an epoch: its scores on the selection split and, once made, its answers to the report split."""

    epoch: int
    step: int
    selection: dict[str, float]
    tensors: dict[str, Tensor]
    report: Answers | None = None


@dataclass
class State:
    """What a run gathers on its way, over all its sessions (``session.py`` saves it: a new field belongs there, too).

    frozen: the untrained model's score. answered: evaluations under way, by what they are called. trained: whether
    training is over; diverged: why the run did, if it did. elapsed: seconds until the last checkpoint.
    """

    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    frozen: dict[str, Any] | None = None
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best: Evaluated | None = None
    last: Evaluated | None = None
    answered: dict[str, Predictions] = field(default_factory=dict)
    trained: bool = False
    diverged: str | None = None
    seconds: dict[str, float | None] = field(
        default_factory=lambda: {"load": 0.0, "frozen": None, "train": None, "evaluate": 0.0}
    )
    generated: int = 0
    sessions: int = 1
    elapsed: float = 0.0
    peak_memory: int | None = None


def fill_train_losses(state: State, trained: TrainResult) -> None:
    """Each evaluation's mean training loss since the one before."""
    before = 0
    for row in state.epochs:
        losses = [step["loss"] for step in trained.steps[before : row["step"]]]
        mean = math.fsum(losses) / len(losses)
        row["train_loss"] = mean if math.isfinite(mean) else None
        before = row["step"]


def distinct(*evaluated: Evaluated | None) -> list[Evaluated]:
    found: list[Evaluated] = []
    for one in evaluated:
        if one is not None and all(one is not other for other in found):
            found.append(one)
    return found


def about_model(prepared: Prepared) -> dict[str, Any]:
    """What an adapter's description says of the model that it belongs to."""
    model = {
        **prepared.config.model,
        "name": prepared.model_name,
        "dtype": prepared.backend["dtype"],
        "revision": prepared.revision,
        "hash": prepared.hashes["model"],
    }
    for key in ("path", "tokenizer"):  # of files here: an adapter is used from any folder
        if model[key] and Path(model[key]).expanduser().exists():
            model[key] = str(Path(model[key]).expanduser().resolve())
    return {
        "model": model,
        "task": prepared.task.name,
        "decode": prepared.decoding,
        "adapter_dtype": name_of(prepared.adapter_dtype),
    }


def _resolved(prepared: Prepared) -> dict[str, Any]:
    """The configuration as it was run: nothing left to ``auto``, without the table of tuned rates."""
    config = dataclasses.asdict(prepared.config)
    del config["tuned"], config["trial"], config["data"]["root"]
    config["protocol"] = prepared.protocol
    config["device"] = prepared.backend["device"]
    config["model"]["dtype"] = prepared.backend["dtype"]
    config["model"]["revision"] = prepared.revision
    config["splits"] = {"selection": prepared.roles.selection, "report": prepared.roles.report}
    if (count := prepared.config.splits.selection_examples) is not None:
        config["splits"]["selection_examples"] = count
    if config["train"]["evaluate_every"] == 1:  # the default is left out, as in records older than the setting
        del config["train"]["evaluate_every"]
    config["train"]["learning_rate"] = prepared.train.learning_rate
    config["train"]["batch_size"] = prepared.train.batch_size
    config["train"]["adapter_dtype"] = prepared.backend["adapter_dtype"]
    return config


def _chosen(evaluated: Evaluated | None) -> dict[str, Any] | None:
    if evaluated is None or evaluated.report is None:
        return None
    return {
        "epoch": evaluated.epoch,
        "step": evaluated.step,
        "selection": evaluated.selection,
        "report": evaluated.report.scored.values,
    }


def total_parameters(adapter: Adapter) -> int:
    return sum(parameter.numel() for parameter in adapter.model.parameters())


def make_record(
    prepared: Prepared,
    adapter: Adapter,
    state: State,
    trained: TrainResult,
    base: int,
    how: dict[str, Any],
) -> Record:
    """The record of a run that is done. base: parameters of the model without the adapter; how: it was trained, what
    changes no number but by rounding."""
    config, method = _resolved(prepared), prepared.method
    notes = list(prepared.notes)
    if trained.stopped:
        notes.append(f"training stopped early: {trained.stopped}")
    if state.diverged:
        notes.append(f"diverged: {state.diverged}")
    if not method.published:
        notes.append(f"{method.name}: no official configuration is published; its defaults are ours")
    best = _chosen(state.best)
    last = best if state.last is state.best else _chosen(state.last)
    total = total_parameters(adapter)
    record: Any = {
        "schema": SCHEMA,
        "status": "diverged" if state.diverged else "completed",
        "cell": prepared.cell,
        "config": config,
        "config_hash": digest(config),
        "request_hash": request_hash(prepared.config),
        "cell_hash": prepared.key,
        "primary_metric": prepared.dataset.primary,
        "headline": list(prepared.dataset.headline),
        "splits": {**dataclasses.asdict(prepared.roles), "selected_on_report": prepared.roles.selected_on_report},
        "metrics": {
            "frozen": state.frozen if prepared.config.frozen else None, "best": best, "last": last,
            "epochs": state.epochs,
        },
        "signatures": prepared.task.signatures(prepared.dataset.splits[prepared.scored]),
        "parameters": {
            "trainable": adapter.trainable, "total": total, "base": base, "share": adapter.trainable / total
        },
        "learning_rate": {"value": prepared.train.learning_rate, "source": prepared.learning_rate_source},
        "steps": len(trained.steps),
        "tokens": {"train": trained.tokens, "generated": state.generated},
        "seconds": {**state.seconds, "total": state.elapsed},
        "peak_memory_bytes": state.peak_memory,
        "sessions": state.sessions,
        "backend": {**prepared.backend, **how},
        "hashes": prepared.hashes,
        "origin": prepared.dataset.origin,
        "left_out": prepared.left_out,
        "versions": versions(),
        "git": git_state(Path(ssm_tune.__file__).parent),
        "hardware": hardware(),
        "notes": notes,
        "started": state.started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return record


def make_trial(
    prepared: Prepared, adapter: Adapter, state: State, trained: TrainResult, base: int, how: dict[str, Any]
) -> Trial:
    """The same of a trial: all that a record has but scores of the reported split, which it has not seen."""
    record: Any = make_record(prepared, adapter, state, trained, base, how)
    best = state.best and {"epoch": state.best.epoch, "step": state.best.step, "selection": state.best.selection}
    trial: Any = {"trial": TRIAL_SCHEMA, **{key: record[key] for key in record if key not in NO_PART_OF_A_TRIAL}}
    trial |= {"best": best, "epochs": state.epochs, "examples": len(prepared.dataset.splits[prepared.roles.selection])}
    return trial
