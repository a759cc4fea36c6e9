"""Every run of a sweep is checked before the first one begins, as far as that needs no model and no data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ssm_tune.config.groups import family_of
from ssm_tune.config.protocol import resolved_protocol
from ssm_tune.config.schema import Config
from ssm_tune.experiment.signals import note_signals, stopped_early
from ssm_tune.models.source import folder_at_hand, model_name
from ssm_tune.tasks.base import load_task
from ssm_tune.training.settings import train_settings
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import user_path


def check_run(config: Config) -> None:
    """Raise UserError for what is wrong with a run's names, options, numbers and paths."""
    name = model_name(config.model)
    if config.model["source"] == "folder":
        folder_at_hand(Path(config.model["path"]))
    load_task(config.task)
    if config.data.source == "local" and not user_path(str(config.data.path)).exists():
        raise UserError(f"data.path={config.data.path} is not there")
    train_settings(config, resolved_protocol(config.protocol, dataclasses.asdict(config.data)), name)
    with note_signals() as stop_request:  # an exception within torch's import would be lost there
        from ssm_tune.methods.base import load_method
        from ssm_tune.models.config import FAMILIES
    if stop_request.signal is not None:
        raise stopped_early(stop_request.signal)
    load_method(config.method).check_family(FAMILIES[family_of(config.model)])
