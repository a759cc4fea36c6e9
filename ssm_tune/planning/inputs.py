"""Whether what runs need can be had, found out before anything is measured: settings, models of the hub, data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssm_tune.config.schema import Config
from ssm_tune.experiment.load_data import LoadedData, load_data
from ssm_tune.experiment.shared import Shared
from ssm_tune.hub.download import model_commit
from ssm_tune.models.source import folder_at_hand
from ssm_tune.sweeps.check_runs import check_run
from ssm_tune.utils.errors import UserError


class Inputs:
    """Keeps the data that runs share, and what was missing: nothing is asked for twice."""

    def __init__(self) -> None:
        self._shared = Shared()
        self._missing: dict[str, UserError | None] = {}

    def data(self, config: Config) -> LoadedData:
        """The data of a run. Raises UserError."""
        return load_data(config, self._shared)

    def missing(self, config: Config) -> UserError | None:
        """Why a run cannot begin, if so."""
        data = [config.task, dataclasses.asdict(config.data), config.protocol, dataclasses.asdict(config.splits)]
        return (
            self._once(config.model, lambda: _find_model(config.model))
            or self._once(data, lambda: self.data(config))
            or self._once(dataclasses.asdict(config), lambda: check_run(config))
        )

    def _once(self, key: Any, look: Callable[[], object]) -> UserError | None:
        known = json.dumps(key, sort_keys=True, default=str)
        if known not in self._missing:
            self._missing[known] = None
            try:
                look()
            except UserError as error:
                self._missing[known] = error
        return self._missing[known]


def _find_model(section: dict[str, Any]) -> None:
    """Raise UserError for a model that is neither at hand nor on a hub that answers; nothing is downloaded."""
    if section["source"] == "hub" and folder_at_hand(section["path"]) is None:
        model_commit(section["path"], section["revision"])
    elif section["source"] == "folder" and section["path"]:
        folder_at_hand(Path(section["path"]))
