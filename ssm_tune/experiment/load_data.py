"""The first part of a run's setup: task, data and settings, and every check that needs no model. Imports no torch.

What is wrong with a setting, a data file or the output folder is found here, before PyTorch is imported.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssm_tune.config.protocol import resolved_protocol
from ssm_tune.config.schema import Config
from ssm_tune.data.selection import examples_of_run
from ssm_tune.experiment.shared import Shared, SharedData, file_stamps
from ssm_tune.models.source import folder_at_hand, model_name
from ssm_tune.tasks.base import Dataset, Roles, Task, load_task
from ssm_tune.tasks.splits import hold_out_validation, limited
from ssm_tune.training.distributed import ProcessGroup, micro_batches, world_size
from ssm_tune.training.settings import TrainSettings, total_steps, train_settings
from ssm_tune.utils.files import require_writable


@dataclass
class LoadedData:
    """The data of a run, and the settings that follow from them.

    reported_split: the split whose scores are the run's result; None for a trial, which does not look at it. derived:
    as in ``SharedData``.
    """

    task: Task
    protocol: str
    dataset: Dataset
    roles: Roles
    reported_split: str | None
    model_name: str
    train: TrainSettings
    learning_rate_source: str
    derived: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def scored_split(self) -> str:
        """The split whose scores the run is for."""
        return self.reported_split or self.roles.selection


def load_data(config: Config, shared: Shared | None = None) -> LoadedData:
    """Load the data and check what can be checked without a model. shared: where they may be already.

    Raises UserError.
    """
    task = load_task(config.task)
    require_writable(Path(config.output_dir), "output_dir")
    name = model_name(config.model)
    if config.model["source"] == "folder":
        folder_at_hand(Path(config.model["path"]))
    data = dataclasses.asdict(config.data)
    protocol = resolved_protocol(config.protocol, data)

    def read() -> SharedData:
        dataset = task.load(data, protocol)
        roles = task.roles(protocol, dataset, config.splits.selection, config.splits.report)
        dataset = hold_out_validation(dataset) if roles.selection == "carved" else dataset
        return SharedData(task, limited(dataset, config.splits.limit), roles)

    found = read() if shared is None else shared.data.get(_key(config, data, protocol), read)
    task, roles = found.task, found.roles
    dataset = examples_of_run(found.dataset, roles, config.splits.selection_examples, config.trial)
    train, source = train_settings(config, protocol, name)
    reported = None if config.trial else roles.report
    loaded = LoadedData(task, protocol, dataset, roles, reported, name, train, source, found.derived)
    scored = {roles.selection, loaded.scored_split}
    task.check_scoring([example for split in sorted(scored) for example in dataset.splits[split]])
    micro_batches(train.batch_size, config.train.micro_batch, ProcessGroup(0, world_size()))
    total_steps(len(dataset.splits[roles.train]), train)  # a batch larger than the training set is refused
    return loaded


def _key(config: Config, data: dict[str, Any], protocol: str) -> Hashable:
    """What the data of a run depend on: settings, and the files that these name."""
    settings = [config.task, data, protocol, config.splits.selection, config.splits.report, config.splits.limit]
    return json.dumps(settings, sort_keys=True), file_stamps(data["path"], *config.task.values())
