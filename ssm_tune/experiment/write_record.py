"""What a finished run leaves: its steps, predictions, adapter and, last, the record that says that it is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ssm_tune.experiment.evaluate import write_predictions
from ssm_tune.experiment.run_checkpointer import RunCheckpointer
from ssm_tune.experiment.run_folder import (
    ADAPTER_NAME,
    BASE_PREDICTIONS_NAME,
    LAST_PREDICTIONS_NAME,
    PREDICTIONS_NAME,
    STEPS_NAME,
    delete_checkpoints,
)
from ssm_tune.experiment.setup import Experiment
from ssm_tune.experiment.state import EpochResult, RunState
from ssm_tune.methods.adapter import Adapter
from ssm_tune.models.load import name_of
from ssm_tune.models.mamba import Mamba
from ssm_tune.records.provenance import PACKAGE, git_state, hardware, versions
from ssm_tune.records.record import RECORD_NAME, Record, read_record, write_record
from ssm_tune.records.run_id import digest, request_hash, without_later_defaults
from ssm_tune.records.schema import SCHEMA
from ssm_tune.records.trial import TRIAL_NAME, TRIAL_SCHEMA, Trial, read_trial, write_trial
from ssm_tune.training.position import TrainResult
from ssm_tune.training.recompute_plan import RecomputePlan
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import write_jsonl
from ssm_tune.utils.phases import PHASES

LOADING = ("start", "import", "data", "model")
"""The phases that a record's ``seconds.load`` sums up."""
NOT_IN_TRIALS = ("schema", "metrics", "headline")


@dataclass(frozen=True)
class Trained:
    """What training gives a record beside the run's state.

    base_parameters: of the model without the adapter. computation: how steps were computed, which changes results by
    rounding at most.
    """

    adapter: Adapter
    result: TrainResult
    base_parameters: int
    computation: dict[str, Any]


def record_path(experiment: Experiment) -> Path:
    """The file that says that the run is done; it is written last."""
    return experiment.folder / (RECORD_NAME if experiment.reported_split else TRIAL_NAME)


def finished_record(experiment: Experiment) -> Record | Trial | None:
    """The record of this run if it is done, and has everything that is asked for; None with force=true."""
    path, config = record_path(experiment), experiment.config
    if config.force or not path.exists():
        return None
    if not experiment.reported_split:
        return read_trial(path)
    record = read_record(path)
    return record if record["metrics"]["frozen"] or not config.frozen else None


def finish(checkpointer: RunCheckpointer, trained: Trained, warn: Callable[[str], None]) -> Record | Trial:
    """Write everything that stays of the run. Raises UserError where something cannot be written."""
    experiment, state, folder = checkpointer.experiment, checkpointer.state, checkpointer.folder
    write_jsonl(folder / STEPS_NAME, trained.result.steps)
    if experiment.reported_split:
        _write_reported(checkpointer, trained.adapter)
    checkpointer.note_costs()
    record = make_record(experiment, state, trained)
    done: Record | Trial = record
    if experiment.reported_split:
        write_record(folder, record)
    else:
        done = trial_of(record, experiment, state)
        write_trial(folder, done)
    delete_checkpoints(checkpointer.checkpoints, warn)
    return done


def _write_reported(checkpointer: RunCheckpointer, adapter: Adapter) -> None:
    """The adapter of the best epoch, and the predictions of the best and of the last one on the reported split."""
    experiment, state, folder = checkpointer.experiment, checkpointer.state, checkpointer.folder
    if experiment.config.frozen and not (folder / BASE_PREDICTIONS_NAME).exists():
        raise UserError(
            f"{folder} was changed while the run was in progress: {BASE_PREDICTIONS_NAME} is gone; run the same "
            "command again"
        )
    if state.best is not None:
        write_predictions(folder / PREDICTIONS_NAME, experiment, state.best.report)
        adapter.save(folder / ADAPTER_NAME, adapter_description(experiment))
    if state.last is not None and state.last is not state.best:
        write_predictions(folder / LAST_PREDICTIONS_NAME, experiment, state.last.report)


def adapter_description(experiment: Experiment) -> dict[str, Any]:
    """What an adapter's file says of the model that it belongs to."""
    model = {
        **experiment.config.model,
        "name": experiment.model_name,
        "dtype": experiment.backend["dtype"],
        "revision": experiment.revision,
        "hash": experiment.hashes["model"],
    }
    for key in ("path", "tokenizer"):  # absolute, so that the adapter can be used from any folder
        if model[key] and Path(model[key]).expanduser().exists():
            model[key] = str(Path(model[key]).expanduser().resolve())
    examples = experiment.dataset.splits[experiment.roles.train]
    return {
        "model": model,
        "task": experiment.task.name,
        "prompt": {
            "task": experiment.config.task | experiment.task.decided(examples),
            "protocol": experiment.protocol,
            "fields": list(experiment.task.fields_of(examples)),
        },
        "decode": experiment.decoding,
        "adapter_dtype": name_of(experiment.adapter_dtype),
    }


def resolved_config(experiment: Experiment) -> dict[str, Any]:
    """The configuration as it was run: nothing left to ``auto``, without the table of tuned learning rates."""
    config = dataclasses.asdict(experiment.config)
    del config["tuned"], config["trial"], config["data"]["root"]
    config["protocol"] = experiment.protocol
    config["device"] = experiment.backend["device"]
    config["model"]["dtype"] = experiment.backend["dtype"]
    config["model"]["revision"] = experiment.revision
    config["splits"] = {"selection": experiment.roles.selection, "report": experiment.roles.report}
    if (count := experiment.config.splits.selection_examples) is not None:
        config["splits"]["selection_examples"] = count
    if (limit := experiment.config.splits.limit) is not None:
        config["splits"]["limit"] = limit
    if config["train"]["evaluate_every"] == 1:  # the default is left out, as in records older than the setting
        del config["train"]["evaluate_every"]
    config["train"] = without_later_defaults(config["train"])
    config["train"]["learning_rate"] = experiment.train.learning_rate
    config["train"]["batch_size"] = experiment.train.batch_size
    config["train"]["adapter_dtype"] = experiment.backend["adapter_dtype"]
    return config


def computation(checkpointer: RunCheckpointer, plan: RecomputePlan) -> dict[str, Any]:
    """How steps are computed here, for the record's ``backend``."""
    experiment = checkpointer.experiment
    settings = experiment.config.train
    return {
        **({"threads": torch.get_num_threads()} if experiment.model.device.type == "cpu" else {}),
        "processes": checkpointer.group.size,
        "micro_batch": settings.micro_batch,
        "deterministic": settings.deterministic,
        "recomputed_blocks": plan.recompute.whole,
        "partly_recomputed_blocks": plan.recompute.partly,
    }


def count_parameters(model: Mamba) -> int:
    """All of a model's parameters, an adapter's included."""
    return sum(parameter.numel() for parameter in model.parameters())


def make_record(experiment: Experiment, state: RunState, trained: Trained) -> Record:
    """The record of a run that is done."""
    config, result = resolved_config(experiment), trained.result
    best = _chosen_epoch(state.best)
    last = best if state.last is state.best else _chosen_epoch(state.last)
    base_model = state.base_model if experiment.config.frozen else None
    record: Any = {
        "schema": SCHEMA,
        "status": "diverged" if state.diverged else "completed",
        "cell": experiment.cell,
        "config": config,
        "config_hash": digest(config),
        "request_hash": request_hash(experiment.config),
        "cell_hash": experiment.key,
        "primary_metric": experiment.dataset.primary,
        "headline": list(experiment.dataset.headline),
        "splits": {**dataclasses.asdict(experiment.roles), "selected_on_report": experiment.roles.selected_on_report},
        "metrics": {"frozen": base_model, "best": best, "last": last, "epochs": state.epochs},
        "signatures": experiment.task.signatures(experiment.dataset.splits[experiment.scored_split]),
        "parameters": _parameters(trained),
        "learning_rate": {"value": experiment.train.learning_rate, "source": experiment.learning_rate_source},
        "steps": len(result.steps),
        "tokens": {"train": result.tokens, "generated": state.generated},
        "seconds": _seconds(state),
        "peak_memory_bytes": state.peak_memory,
        "sessions": state.sessions,
        "backend": {**experiment.backend, **trained.computation},
        "hashes": experiment.hashes,
        "origin": experiment.dataset.origin,
        "left_out": experiment.left_out,
        **_provenance(),
        "notes": _notes(experiment, state, result),
        "started": state.started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return record


@cache
def _provenance() -> dict[str, Any]:
    """Where the process's code comes from, and where it runs: the same for all of its runs."""
    return {"versions": versions(), "git": git_state(PACKAGE), "hardware": hardware()}


def _seconds(state: RunState) -> dict[str, float | None]:
    phases = {name: state.seconds.get(name) for name in PHASES}
    phases["train"], phases["evaluate"] = phases["train"] or 0.0, phases["evaluate"] or 0.0
    return phases | {"load": sum(phases[name] or 0.0 for name in LOADING), "total": state.elapsed}


def trial_of(record: Record, experiment: Experiment, state: RunState) -> Trial:
    """A trial: all that the record has but scores on the reported split, which a trial has not seen."""
    best = state.best and {"epoch": state.best.epoch, "step": state.best.step, "selection": state.best.selection}
    trial: Any = {"trial": TRIAL_SCHEMA}
    trial |= {key: value for key, value in record.items() if key not in NOT_IN_TRIALS}
    examples = len(experiment.dataset.splits[experiment.roles.selection])
    return trial | {"best": best, "epochs": state.epochs, "examples": examples}


def _parameters(trained: Trained) -> dict[str, Any]:
    trainable, total = trained.adapter.trainable, count_parameters(trained.adapter.model)
    return {"trainable": trainable, "total": total, "base": trained.base_parameters, "share": trainable / total}


def _chosen_epoch(epoch: EpochResult | None) -> dict[str, Any] | None:
    if epoch is None or epoch.report is None:
        return None
    return {
        "epoch": epoch.epoch,
        "step": epoch.step,
        "selection": epoch.selection,
        "report": epoch.report.scored.values,
    }


def _notes(experiment: Experiment, state: RunState, result: TrainResult) -> list[str]:
    notes = list(experiment.notes)
    if result.stopped:
        notes.append(f"training stopped early: {result.stopped}")
    if state.diverged:
        notes.append(f"diverged: {state.diverged}")
    if not experiment.method.published:
        notes.append(f"{experiment.method.name}: no official configuration is published; its defaults are ours")
    return notes
