"""The base model's predictions: made once for a model, data set, task and decode settings, then kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssm_tune.experiment.lock_file import STALE_SECONDS
from ssm_tune.experiment.run_lock import file_lock
from ssm_tune.experiment.setup import Experiment
from ssm_tune.generation.predict import Outputs
from ssm_tune.records.run_id import digest
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write, decode_json, encode_json, read_bytes, remove_temporary_files


def base_model_predictions(
    experiment: Experiment,
    predict: Callable[[], Outputs],
    poll: Callable[[], None],
    say: Callable[[str], None],
) -> tuple[Outputs, bool]:
    """The base model's outputs on the reported split, and whether they were kept from an earlier run.

    Outputs are kept rather than scores, so that a changed metric needs no new predictions. A damaged file is made
    again, with a warning. predict: makes them. poll: called while another process makes them; may raise to end the
    wait. say: called with a line for whoever waits. Raises UserError where the file cannot be written.
    """
    request, path = _request(experiment), base_model_path(experiment)
    count = len(experiment.dataset.splits[experiment.roles.report])
    if (kept := _read(path, request, count)) is not None:
        return kept, True
    with file_lock(path, poll, say):  # runs that start together need the same predictions: one process makes them
        if (kept := _read(path, request, count)) is not None:
            return kept, True
        if path.exists():
            say(f"warning: {path} is damaged; the base model is scored again")
        outputs = predict()
        remove_temporary_files(path.parent, STALE_SECONDS)
        content = {"asked": request, "outputs": outputs.texts, "sha256": digest(outputs.texts)}
        if outputs.likeliest is not None:
            content |= {"likeliest": outputs.likeliest, "likeliest_sha256": digest(outputs.likeliest)}
        atomic_write(path, [encode_json(content)])
    return outputs, False


def base_model_path(experiment: Experiment) -> Path:
    """Where the base model's predictions are kept; runs that share them have the same path."""
    return Path(experiment.config.output_dir) / "frozen" / f"{digest(_request(experiment))[:16]}.json"


def _request(experiment: Experiment) -> dict[str, Any]:
    """What determines the predictions."""
    limit = experiment.config.splits.limit
    return {
        **({} if limit is None else {"limit": limit}),
        "task": experiment.task.name,
        "version": experiment.task.version,
        "split": experiment.roles.report,
        "protocol": experiment.protocol,
        "decode": experiment.decoding,
        "hashes": experiment.hashes,
        "backend": {name: experiment.backend[name] for name in ("device", "scan", "dtype")},
        # files of older versions have no such answers, and other names by this
        **({"likeliest": True} if experiment.task.mode == "classify" else {}),
    }


def _read(path: Path, request: dict[str, Any], count: int) -> Outputs | None:
    """The outputs in the file; None where there is none, or it is damaged or has no digest."""
    try:
        kept = decode_json(read_bytes(path))
        if kept["asked"] != request:
            return None
        outputs = Outputs(_texts(kept, "outputs", "sha256", count))
        if "likeliest" in request:
            outputs = replace(outputs, likeliest=_texts(kept, "likeliest", "likeliest_sha256", count))
        return outputs
    except (UserError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _texts(kept: dict[str, Any], key: str, digest_key: str, count: int) -> list[str]:
    """One text for each example. Raises ValueError where they are others than were written."""
    texts: list[str] = kept[key]
    if len(texts) != count or kept[digest_key] != digest(texts) or not all(isinstance(text, str) for text in texts):
        raise ValueError(key)
    return texts
