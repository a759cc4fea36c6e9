"""Several runs of one process whose steps are computed together (training/members.py); each leaves its own record.

They differ in seed and in the numbers of optimizer and schedule, and share all else. A run that fails, diverges, is
held by another process or is done already leaves the others; each is locked, saved and resumed as if it were alone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import ExitStack

import torch

from ssm_tune.config.schema import Config
from ssm_tune.data.token_cache import tokenized_training_set
from ssm_tune.experiment.load_data import LoadedData
from ssm_tune.experiment.member import Member
from ssm_tune.experiment.member_count import choose_count
from ssm_tune.experiment.memory_plan import plan_memory
from ssm_tune.experiment.messages import print_plan
from ssm_tune.experiment.metric_logger import require_wandb
from ssm_tune.experiment.run import RunResult
from ssm_tune.experiment.run_lock import Request
from ssm_tune.experiment.setup import Experiment, build_experiment
from ssm_tune.experiment.shared import Shared
from ssm_tune.experiment.signals import note_signals
from ssm_tune.experiment.write_record import count_parameters
from ssm_tune.methods.adapter import attach_members
from ssm_tune.methods.base import load_method
from ssm_tune.models.threads import cpu_threads
from ssm_tune.records.provenance import reset_peak_memory
from ssm_tune.training.members import begin_steps
from ssm_tune.training.settings import adapter_dtype, total_steps, train_settings
from ssm_tune.utils.errors import NotJoined
from ssm_tune.utils.phases import CLOCK
from ssm_tune.utils.progress import Bars, Lines, Named, progress
from ssm_tune.utils.without_compiler import leave_out_compiler


def run_together(
    configs: Sequence[Config],
    data: LoadedData,
    requests: Sequence[Request],
    names: Sequence[str],
    count: int | None,
    shared: Shared | None = None,
) -> list[RunResult | Exception]:
    """Do the runs of ``configs``; of each its result, or what ended it.

    data: of the first. names: what messages call the runs. count: how many are computed at once; None: as many as fit
    if that is faster, else one. shared: what this process keeps for its next runs.

    Raises NotJoined, and UserError for what is wrong with all of them.
    """
    reason = load_method(configs[0].method).alone_reason
    if reason is not None:
        raise NotJoined(f"method={configs[0].method['name']}: {reason}")
    leave_out_compiler()
    torch.set_flush_denormal(True)  # as run.py does
    try:
        with CLOCK.phase("model"), note_signals() as stop_request:
            reset_peak_memory()
            if configs[0].logger == "wandb":
                require_wandb()
            first = build_experiment(configs[0], data, shared)
            if count is None and first.model.device.type != "cpu":
                raise NotJoined("whether that is faster on a GPU has not been measured; sweep.together=N does it")
            experiments = [_alike(first, config) for config in configs]
            display = progress()
            made = zip(experiments, requests, names, strict=True)
            members = [Member(one, request, stop_request, Named(display, name)) for one, request, name in made]
            with cpu_threads(first.model):
                _run(members, display, count)
    finally:
        torch.set_flush_denormal(False)
    results = [member.result for member in members if isinstance(member.result, RunResult | Exception)]
    assert len(results) == len(members)
    return results


def _alike(first: Experiment, config: Config) -> Experiment:
    """The experiment of another configuration that shares all with the first but seed and numbers."""
    train, source = train_settings(config, first.protocol, first.model_name)
    dtype = adapter_dtype(config, source, first.model.dtype)
    if (train.batch_size, dtype) != (first.train.batch_size, first.adapter_dtype):
        raise NotJoined("their batch sizes or the dtypes of their adapters differ")
    total_steps(len(first.dataset.splits[first.roles.train]), train)
    return dataclasses.replace(first, config=config, train=train, learning_rate_source=source)


def _run(members: Sequence[Member], display: Bars | Lines, count: int | None) -> None:
    """From locks to records."""
    try:
        for member in members:
            with member.doing():
                member.open()
        if going := [member for member in members if member.result is None]:
            _train(going, display, count)
    except BaseException as error:  # of what they share: a text that cannot be tokenized, no memory; or a second Ctrl-C
        for member in members:
            if member.result is None:
                member.end(error)
        if not isinstance(error, Exception):
            raise
    finally:
        display.stop()


def _train(members: Sequence[Member], display: Bars | Lines, count: int | None) -> None:
    first = members[0].experiment
    with CLOCK.phase("data"):
        examples, task, tokenizer = first.dataset.splits[first.roles.train], first.task, first.tokenizer
        sequences = first.once("tokens", lambda: tokenized_training_set(examples, task, tokenizer))
    base_parameters, one = count_parameters(first.model), plan_memory(first, sequences)
    seeds = [member.experiment.config.seed for member in members]
    adapters = attach_members(first.model, first.method, seeds, first.adapter_dtype)
    display.say(f"{first.method.name} trains {adapters[0].trainable:,} parameters in each of {len(members)} runs")
    count, line = choose_count(adapters, sequences, first, one, count)
    display.say(line)
    plan = one.of_members(count)
    print_plan(plan, display)
    plan.apply(first.model)
    for member, adapter in zip(members, adapters, strict=True):
        member.plan = plan
        with member.doing():
            member.attach(adapter, sequences)
    _fit(members, display, base_parameters, count)


def _fit(members: Sequence[Member], display: Bars | Lines, base_parameters: int, count: int) -> None:
    """Step after step of those that come first, until all are over."""
    shown = False
    while under_way := [member for member in members if member.result is None]:
        if shown and any(member.pauses for member in under_way):
            display.stop()
            shown = False
        for member in under_way:
            with member.doing():
                member.between_steps(lambda one: one.conclude(base_parameters, count))
        going = [member for member in members if member.result is None][:count]
        if going and not shown:
            done = sum(member.trainer.position.step for member in going)
            steps = sum(member.trainer.schedule.last for member in going)
            display.start(f"training {len(going)} runs", steps, done)
            shown = True
        if going:
            _step(going)
            display.advance(len(going), "")


def _step(members: Sequence[Member]) -> None:
    """One step of each."""
    members[0].experiment.model.train()
    begun = time.perf_counter()
    with CLOCK.phase("train"):
        with ExitStack() as clocks:
            for member in members:
                clocks.enter_context(member.clock.counting(1 / len(members)))
            begin_steps([member.trainer for member in members])
        share = (time.perf_counter() - begun) / len(members)
        for member in members:
            with member.doing():
                member.after_gradients(share)
