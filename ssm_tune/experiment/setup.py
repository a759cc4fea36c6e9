"""From a checked configuration to everything a run needs, cheap and refusable things first."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ssm_tune.config.groups import changed_options, family_of
from ssm_tune.config.protocol import resolved_protocol
from ssm_tune.config.schema import Config
from ssm_tune.data.selection import examples_of_run, within_token_limit
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.methods.base import Method, load_method
from ssm_tune.models.config import FAMILIES
from ssm_tune.models.load import choose_device, choose_dtype, load_model, name_of
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.pretrained import model_hash
from ssm_tune.models.source import model_name
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.ops.backend import Choice, choose
from ssm_tune.records.record import RECORD_NAME
from ssm_tune.records.run_id import digest, folder_name
from ssm_tune.records.trial import TRIAL_NAME
from ssm_tune.tasks.base import Dataset, Roles, Task, load_task
from ssm_tune.tasks.splits import hold_out_validation
from ssm_tune.training.distributed import SINGLE_PROCESS, ProcessGroup, micro_batches
from ssm_tune.training.settings import TrainSettings, adapter_dtype, total_steps, train_settings
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import decode_json, read_bytes, require_writable


@dataclass
class Prepared:
    """A cell, ready to run.

    revision: the hub commit of the weights, if they come from there. left_out: by split, the ids of examples that the
    protocol finds too long. notes: what the record's reader must know.
    """

    config: Config
    task: Task
    method: Method
    dataset: Dataset
    roles: Roles
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

    @property
    def cell(self) -> dict[str, Any]:
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
    def scored(self) -> str:
        """The split whose scores are what the run is for."""
        return self.roles.selection if self.config.trial else self.roles.report

    @property
    def backend(self) -> dict[str, str]:
        return {
            "device": self.model.device.type,
            "scan": self.kernels.name,
            "dtype": name_of(self.model.dtype),
            "adapter_dtype": name_of(self.adapter_dtype),
        }

    @property
    def key(self) -> str:
        """Hash of what determines the result: contents in place of paths; no device, no logger, no commit."""
        numbers = {name: value for name, value in self.backend.items() if name != "device"}
        every, count = self.config.train.evaluate_every, self.config.splits.selection_examples
        # what is not the default alone, so that older runs keep their names
        choice = ({"every": every} if every > 1 else {}) | ({"examples": count} if count is not None else {})
        return digest(
            {
                **({"choice": choice} if choice else {}),
                "cell": self.cell,
                "version": self.task.version,
                "roles": dataclasses.asdict(self.roles),
                "primary": self.dataset.primary,
                "train": dataclasses.asdict(self.train),
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
        changed = changed_options({"name": self.method.name, **self.method.options})
        cell = {**self.cell, "method_options": changed}
        return Path(self.config.output_dir) / self.config.kept_in / self.task.name / folder_name(cell, self.key)


def prepare(config: Config, world: ProcessGroup = SINGLE_PROCESS) -> Prepared:
    """Resolve everything that ``auto`` and null leave open, load data, tokenizer and model.

    world: the processes that share each batch.
    Raises UserError for whatever the user can mend.
    """
    task, method = load_task(config.task), load_method(config.method)
    method.check_family(FAMILIES[family_of(config.model)])
    device = choose_device(config.device)
    dtype = choose_dtype(config.model["dtype"], device)
    if config.backend == "mamba_ssm" and method.sets_initial_state:
        raise UserError(f"method={method.name}: mamba-ssm's scan takes no initial state; leave backend=auto")
    kernels = choose(config.backend, device, dtype)
    require_writable(Path(config.output_dir), "output_dir")
    data = dataclasses.asdict(config.data)
    protocol = resolved_protocol(config.protocol, data)
    dataset = task.load(data, protocol)
    roles = task.roles(protocol, dataset, config.splits.selection, config.splits.report)
    if roles.selection == "carved":
        dataset = hold_out_validation(dataset)
    dataset = examples_of_run(dataset, roles, config.splits.selection_examples, config.trial)
    task.check_scoring(dataset.splits[roles.selection if config.trial else roles.report])  # a trial has no reported one
    name = model_name(config.model)
    train, source = train_settings(config, protocol, name)
    micro_batches(train.batch_size, config.train.micro_batch, world)  # refuses what does not divide
    total_steps(len(dataset.splits[roles.train]), train)  # refuses a batch larger than the training set
    model, tokenizer, revision = load_model(config.model, device, dtype)
    dataset, left_out, notes = within_token_limit(dataset, task, protocol, tokenizer)
    total_steps(len(dataset.splits[roles.train]), train)
    decode = DecodeSettings(**dataclasses.asdict(config.decode), eos_id=tokenizer.eos_id)
    return Prepared(
        config, task, method, dataset, roles, protocol, model, name, tokenizer, revision, train, decode, source,
        adapter_dtype(config, source, dtype),
        {"data": dataset.hash, "model": model.checkpoint_hash or model_hash(model), "tokenizer": tokenizer.hash},
        left_out, [*task.notes, *notes], kernels,
    )  # fmt: skip


def check_model(prepared: Prepared) -> None:
    """Raise UserError where the results folder has a run of another checkpoint or tokenizer under this model's name.

    It looks at one such run: that one was held against those before it. Checkpoint folders alone change unnoticed;
    a hub's have revisions, an embedded model comes with the package.
    """
    section, output = prepared.config.model, Path(prepared.config.output_dir)
    if section["source"] != "folder":
        return
    paths = chain((output / "runs").rglob(RECORD_NAME), (output / "trials").rglob(TRIAL_NAME))
    for path in paths:
        try:
            run = decode_json(read_bytes(path))
            name, hashes = run["cell"]["model"], run["hashes"]
        except (UserError, ValueError, KeyError, TypeError):
            continue  # damaged: whoever reads all records says so
        if name != prepared.model_name:
            continue
        for what, part in (("checkpoint", "model"), ("tokenizer", "tokenizer")):
            if hashes[part] not in (None, prepared.hashes[part]):
                raise UserError(
                    f"model.path={section['path']}: the {what} of {name} has changed: {path.parent} ran with "
                    f"{str(hashes[part])[:12]}, this is {str(prepared.hashes[part])[:12]}; call it by another name "
                    "(model.name=NAME), or keep its results apart (output_dir=DIR)"
                )
        return
