"""The second part of a run's setup: the model, and with it everything that the run needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch

from ssm_tune.config.groups import changed_options, family_of
from ssm_tune.config.schema import Config
from ssm_tune.data.selection import within_token_limit
from ssm_tune.experiment.load_data import LoadedData, load_data
from ssm_tune.experiment.shared import Shared
from ssm_tune.experiment.shared_model import take_model
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.methods.base import Method, load_method
from ssm_tune.models.config import FAMILIES
from ssm_tune.models.load import choose_device, choose_dtype, name_of
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.pretrained import model_hash
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.ops.backend import Choice, choose
from ssm_tune.records.record import RECORD_NAME
from ssm_tune.records.run_id import digest, folder_name
from ssm_tune.records.trial import TRIAL_NAME
from ssm_tune.tasks.base import Dataset, Roles, Task
from ssm_tune.training.settings import TrainSettings, adapter_dtype, total_steps
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import decode_json, read_bytes

T = TypeVar("T")


@dataclass
class Experiment:
    """Everything that a run needs, resolved: nothing is left to ``auto`` or null.

    reported_split: as in ``LoadedData``. revision: the hub commit of the weights, if they come from there. hashes: of
    data, model and tokenizer. left_out: by split, the ids of examples that the protocol finds too long. notes: what the
    record's reader must know. shared: what the process keeps for its next run; None where there is none.
    """

    config: Config
    task: Task
    method: Method
    dataset: Dataset
    roles: Roles
    reported_split: str | None
    protocol: str
    model: Mamba
    model_name: str
    tokenizer: Tokenizer
    revision: str | None
    train: TrainSettings
    decode: DecodeSettings
    learning_rate_source: str
    adapter_dtype: torch.dtype
    hashes: dict[str, str]
    left_out: dict[str, list[str]]
    notes: list[str]
    kernels: Choice
    derived: dict[Hashable, Any] = field(default_factory=dict)
    shared: Shared | None = None

    def once(self, what: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` makes of data, tokenizer and ``what``; by an earlier run of this process, if one had them."""
        return once(self.derived, (what, self.tokenizer.hash), make)

    @property
    def cell(self) -> dict[str, Any]:
        """What the run is, in names: the record's section of that name."""
        return {
            "model": self.model_name,
            "data": self.dataset.name,
            "task": self.task.name,
            "method": self.method.name,
            "method_options": self.method.options,
            "protocol": self.protocol,
            "seed": self.config.seed,
        }

    @property
    def scored_split(self) -> str:
        """The split whose scores the run is for."""
        return self.reported_split or self.roles.selection

    @property
    def backend(self) -> dict[str, str]:
        return {
            "device": self.model.device.type,
            "scan": self.kernels.name,
            "dtype": name_of(self.model.dtype),
            "adapter_dtype": name_of(self.adapter_dtype),
            "optimizer": "AdamW, fused" if self.uses_cuda_graphs else "AdamW",
        }

    @property
    def uses_cuda_graphs(self) -> bool:
        """Whether training steps run as CUDA graphs, and AdamW as PyTorch's fused one, which rounds once a step."""
        return self.kernels.name == "cuda" and self.config.train.cuda_graphs == "auto"

    @property
    def key(self) -> str:
        """Hash of what determines the result: contents in place of paths; no device, no logger, no commit."""
        numbers = {name: value for name, value in self.backend.items() if name not in ("device", "optimizer")}
        if numbers["scan"] == "cuda" and not self.uses_cuda_graphs and numbers["adapter_dtype"] != "float32":
            # it rounds such an adapter otherwise than runs with graphs do
            numbers["optimizer"] = self.backend["optimizer"]
        every, count = self.config.train.evaluate_every, self.config.splits.selection_examples
        # what is not the default alone, so that older runs keep their names
        choice = ({"every": every} if every > 1 else {}) | ({"examples": count} if count is not None else {})
        choice |= {"limit": limit} if (limit := self.config.splits.limit) is not None else {}
        return digest(
            {
                **({"choice": choice} if choice else {}),
                "cell": self.cell,
                "version": self.task.version,
                "roles": dataclasses.asdict(self.roles),
                "primary": self.dataset.primary,
                "train": self.train.identity(),
                "decode": self.decoding,
                "numbers": numbers,
                "hashes": self.hashes,
            }
        )

    @property
    def decoding(self) -> dict[str, Any]:
        """The decode settings without the batch size, which changes speed alone."""
        settings = dataclasses.asdict(self.decode)
        del settings["batch_size"]
        return settings

    @property
    def folder(self) -> Path:
        """Where the run writes its files."""
        changed = changed_options({"name": self.method.name, **self.method.options})
        cell = {**self.cell, "method_options": changed}
        return Path(self.config.output_dir) / self.config.kept_in / self.task.name / folder_name(cell, self.key)


def once(derived: dict[Hashable, Any], key: Hashable, make: Callable[[], T]) -> T:
    """The value of that key, made if it is not there."""
    if key not in derived:
        derived[key] = make()
    found: T = derived[key]
    return found


def build_experiment(config: Config, data: LoadedData | None = None, shared: Shared | None = None) -> Experiment:
    """Load the model, and the data unless they are given. Raises UserError."""
    data = data or load_data(config, shared)
    method = load_method(config.method)
    family = FAMILIES[family_of(config.model)]
    method.check_family(family)
    device = choose_device(config.device)
    dtype = choose_dtype(config.model["dtype"], device)
    if config.backend == "mamba_ssm" and method.sets_initial_state:
        raise UserError(f"method={method.name}: mamba-ssm's scan takes no initial state; leave backend=auto")
    if config.backend == "mamba_ssm" and not family.runs_on_mamba_ssm:
        raise UserError(
            f"backend=mamba_ssm runs the scan of a Mamba-1, and the model is {family.title}: leave backend=auto"
        )
    kernels = choose(config.backend, device, dtype)
    model, tokenizer, revision = take_model(config.model, device, dtype, shared)
    states, most = model.config.d_state, model.mixers[0].most_states
    if config.backend == "cuda" and states > most:
        raise UserError(
            f"backend=cuda: the kernels take {most} states a channel, the model has {states}; leave backend=auto"
        )
    dataset, left_out, notes = once(
        data.derived,
        ("within the limit", tokenizer.hash, config.trial, config.splits.selection_examples),
        lambda: within_token_limit(data.dataset, data.task, data.protocol, tokenizer),
    )
    total_steps(len(dataset.splits[data.roles.train]), data.train)  # a batch larger than what is left is refused
    return Experiment(
        config=config,
        task=data.task,
        method=method,
        dataset=dataset,
        roles=data.roles,
        reported_split=data.reported_split,
        protocol=data.protocol,
        model=model,
        model_name=data.model_name,
        tokenizer=tokenizer,
        revision=revision,
        train=data.train,
        decode=DecodeSettings(**dataclasses.asdict(config.decode), eos_id=tokenizer.eos_id),
        learning_rate_source=data.learning_rate_source,
        adapter_dtype=adapter_dtype(config, data.learning_rate_source, dtype),
        hashes={
            "data": dataset.hash,
            "model": model.checkpoint_hash or model_hash(model),
            "tokenizer": tokenizer.hash,
        },
        left_out=left_out,
        notes=[*data.task.notes, *notes, *limit_note(config.splits.limit)],
        kernels=kernels,
        derived=data.derived,
        shared=shared,
    )


def limit_note(limit: int | None) -> list[str]:
    """What a run says of its ``splits.limit``, if it has one."""
    return [] if limit is None else [f"no result: at most {limit} examples of each split (splits.limit={limit})"]


def check_same_checkpoint(experiment: Experiment) -> None:
    """Raise UserError where the results folder has a run of another checkpoint or tokenizer under this model's name.

    One such run is looked at: it was compared with those before it. Only checkpoint folders can change unnoticed: a
    model of the hub has revisions, an embedded one comes with the package.
    """
    section, output = experiment.config.model, Path(experiment.config.output_dir)
    if section["source"] != "folder":
        return
    paths = chain((output / "runs").rglob(RECORD_NAME), (output / "trials").rglob(TRIAL_NAME))
    for path in paths:
        try:
            run = decode_json(read_bytes(path))
            name, hashes = run["cell"]["model"], run["hashes"]
        except (UserError, ValueError, KeyError, TypeError):
            continue  # damaged: reported where all records are read
        if name != experiment.model_name:
            continue
        for what, part in (("checkpoint", "model"), ("tokenizer", "tokenizer")):
            if hashes[part] not in (None, experiment.hashes[part]):
                raise UserError(
                    f"model.path={section['path']}: the {what} of {name} has changed: {path.parent} ran with "
                    f"{str(hashes[part])[:12]}, this is {str(experiment.hashes[part])[:12]}; call it by another name "
                    "(model.name=NAME), or keep its results apart (output_dir=DIR)"
                )
        return
