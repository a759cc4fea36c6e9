"""The base model's scores, kept beside its predictions: scoring them, and importing what scores, may take seconds."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from ssm_tune.experiment.base_model import base_model_path
from ssm_tune.experiment.setup import Experiment
from ssm_tune.generation.predict import Outputs
from ssm_tune.records.run_id import digest
from ssm_tune.tasks.base import Scored
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write, decode_json, encode_json, read_bytes


def read_scores(experiment: Experiment, outputs: Outputs) -> Scored | None:
    """The scores of these outputs if they are kept; None where there are none, or the file is damaged."""
    try:
        kept = decode_json(read_bytes(_path(experiment)))
        scored = kept["scored"]
        if kept["asked"] != _request(experiment, outputs) or kept["sha256"] != digest(scored):
            return None
        return Scored(dict(scored["values"]), list(scored["statistics"]))
    except (UserError, ValueError, KeyError, TypeError, RecursionError):
        return None


def keep_scores(experiment: Experiment, outputs: Outputs, scored: Scored) -> None:
    """Keep the scores for other runs, where the disk takes them."""
    found = {"values": scored.values, "statistics": scored.statistics}
    content = {"asked": _request(experiment, outputs), "scored": found, "sha256": digest(found)}
    with suppress(UserError, ValueError):  # a score that is not finite is none that JSON holds
        atomic_write(_path(experiment), [encode_json(content)])


def _path(experiment: Experiment) -> Path:
    return base_model_path(experiment).with_suffix(".scores.json")


def _request(experiment: Experiment, outputs: Outputs) -> dict[str, Any]:
    """What determines the scores: outputs, texts, and how each metric is computed, versions of libraries included."""
    split = experiment.dataset.splits[experiment.roles.report]
    return {
        "outputs": digest(outputs.texts),
        **({"likeliest": digest(outputs.likeliest)} if outputs.likeliest is not None else {}),
        "data": experiment.hashes["data"],
        "version": experiment.task.version,
        "signatures": experiment.task.signatures(split),
    }
