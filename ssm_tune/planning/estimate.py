"""What runs will cost, before they run: counted from the data, timed on a few shapes of their own batches."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ssm_tune.config.compose import Composer
from ssm_tune.config.schema import Config
from ssm_tune.data.token_cache import tokenized_training_set
from ssm_tune.experiment.base_model import base_model_path
from ssm_tune.experiment.memory_plan import plan_memory, uses_cuda_graphs
from ssm_tune.experiment.setup import Experiment, build_experiment
from ssm_tune.methods.adapter import attach
from ssm_tune.models.threads import cpu_threads
from ssm_tune.ops.cuda.graph import Capture, CudaCapture
from ssm_tune.ops.cuda.memory import free_memory
from ssm_tune.planning.inputs import Inputs
from ssm_tune.planning.profiling import DoesNotFit, Measured, measure
from ssm_tune.planning.workload import Workload, evaluations, training_work
from ssm_tune.records.run_id import digest, label_of, request_hash
from ssm_tune.sweeps.status import Results
from ssm_tune.sweeps.sweep_file import PlannedRun
from ssm_tune.training.settings import total_steps
from ssm_tune.utils.errors import UserError

MS_PER_HOUR = 3.6e6


@dataclass
class Planned:
    """A run's plan. status: planned, done or diverged (both cost nothing more), does not fit, or failed.

    hours: load, train, evaluate and their total. peak: bytes, on CUDA alone. detail: why, and what to do.
    """

    run: str
    status: str
    detail: str = ""
    workload: Workload | None = None
    measured: Measured | None = None
    hours: dict[str, float] | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        found: dict[str, Any] = {"cell": self.run, "status": self.status, "detail": self.detail, "hours": self.hours}
        work, measured = self.workload, self.measured
        if work is None:
            return found
        rows, length, labels = work.training.largest()[0]
        found |= {
            "steps": work.steps,
            "tokens": work.tokens,
            "padded_tokens": work.training.padded,
            "longest_batch": {"rows": rows, "length": length, "labels": labels},
            "evaluations": [_plain_evaluation(one) for one in work.evaluations],
        }
        if measured is not None:
            found |= {
                "milliseconds": {
                    "step": _by_shape(measured.steps),
                    "prefill": _by_shape(measured.prefills),
                    "new_token": _by_shape(measured.tokens),
                },
                "peak_memory_bytes": measured.peak,
                "note": measured.note,
            }
        return found


def _plain_evaluation(one: Any) -> dict[str, Any]:
    rows, length, _ = one.batches.largest()[0]
    return {
        "what": one.what,
        "split": one.split,
        "times": one.times,
        "prompts": one.prompts,
        "new_tokens": one.new_tokens,
        "longest_batch": {"rows": rows, "length": length},
    }


def _by_shape(times: dict[tuple[int, int, int], float]) -> list[dict[str, float]]:
    return [{"rows": rows, "length": length, "extra": extra, "ms": ms} for (rows, length, extra), ms in times.items()]


class Planner:
    """Plans runs in order. Those that differ in seed and learning rate alone share what was measured."""

    def __init__(self) -> None:
        self._composer, self._inputs = Composer(), Inputs()
        self._results: dict[str, Results] = {}
        self._groups: dict[str, list[tuple[int, PlannedRun, Config]]] = {}
        self._frozen: set[Any] = set()
        self._found: dict[int, Planned] = {}

    def plan(self, runs: Sequence[PlannedRun], say: Callable[[str], None]) -> list[Planned]:
        """A plan for each run. say: called with each line of progress. Raises UserError for settings that cannot be
        composed, and where every run fails."""
        for number, run in enumerate(runs):
            try:
                config = self._composer.config(run.overrides)
            except UserError as error:
                raise UserError(f"{run.origin}: {error}" if run.origin else str(error)) from error
            if config.output_dir not in self._results:
                self._results[config.output_dir] = Results(config.output_dir, config.trial)
            state = self._results[config.output_dir].state(config)
            if state.record is not None and not config.force:
                self._found[number] = Planned(label_of(run.overrides), state.status, state.detail)
                continue
            train = dataclasses.replace(config.train, learning_rate=1.0)
            request = request_hash(dataclasses.replace(config, seed=0, train=train))
            key = digest([request, config.output_dir, config.decode.batch_size])
            self._groups.setdefault(key, []).append((number, run, config))
        waiting = [group for group in self._groups.values() if not self._lacks_something(group)]
        for at, group in enumerate(waiting, start=1):
            say(f"measuring {at} of {len(waiting)}: {label_of(group[0][1].overrides)}")
            try:
                self._plan_group(group)
            except UserError as error:
                self._fail(group, error)
            free_memory()
        planned = [self._found[number] for number in range(len(runs))]
        failed = [one for one in planned if one.status == "failed"]
        if failed and len(failed) == len(planned):
            raise UserError(failed[0].detail)
        return planned

    def _lacks_something(self, group: list[tuple[int, PlannedRun, Config]]) -> bool:
        """Whether a model or data are missing, or a setting is wrong; the runs of the group are failed then."""
        if (error := self._inputs.missing(group[0][2])) is not None:
            self._fail(group, error)
        return error is not None

    def _fail(self, group: list[tuple[int, PlannedRun, Config]], error: UserError) -> None:
        for number, run, _ in group:
            self._found[number] = Planned(label_of(run.overrides), "failed", str(error))

    def _plan_group(self, group: list[tuple[int, PlannedRun, Config]]) -> None:
        """Plan runs that differ in seed and learning rate alone."""
        begun = time.perf_counter()
        experiment = build_experiment(group[0][2], self._inputs.data(group[0][2]))
        sequences = tokenized_training_set(
            experiment.dataset.splits[experiment.roles.train], experiment.task, experiment.tokenizer
        )
        loading = time.perf_counter() - begun
        adapter = attach(
            experiment.model, experiment.method, seed=experiment.config.seed, dtype=experiment.adapter_dtype
        )
        captured = uses_cuda_graphs(experiment)
        plan_memory(experiment, sequences).apply(experiment.model)
        micro_batch = experiment.config.train.micro_batch

        def capture() -> Capture | None:
            return CudaCapture(experiment.model.device) if captured else None

        measured: Measured | None = None
        for number, run, config in group:
            work = workload(experiment, sequences, config.seed, captured, self._scores_frozen(experiment))
            label = label_of(run.overrides)
            try:
                with cpu_threads(experiment.model):
                    measured = measure(adapter, work, experiment.decode, capture, measured, micro_batch)
            except DoesNotFit as failure:
                found = Planned(label, "does not fit", advice(failure, experiment), work)
            else:
                found = Planned(label, "planned", "", work, measured, hours(work, measured, loading))
            self._found[number] = found

    def _scores_frozen(self, experiment: Experiment) -> bool:
        """Whether the next run scores the base model: once for all runs that share its predictions."""
        path = base_model_path(experiment)
        if not experiment.config.frozen or path in self._frozen or path.exists():
            return False
        self._frozen.add(path)
        return True


def workload(experiment: Experiment, sequences: Any, seed: int, captured: bool, frozen: bool) -> Workload:
    """A run's work with another seed, which orders the examples."""
    settings, every = dataclasses.replace(experiment.train, seed=seed), experiment.config.train.evaluate_every
    per_epoch, last = total_steps(len(sequences), settings)
    warmup = min(experiment.method.num_warmup_steps, last)
    tokens, batches = training_work(sequences.lengths(), sequences.labels.tolist(), settings, captured, warmup)
    evaluated = evaluations(
        experiment.dataset.splits,
        experiment.roles,
        experiment.task,
        experiment.tokenizer,
        experiment.decode,
        times=(math.ceil(last / per_epoch) - 1) // every + 1,
        frozen=frozen,
        cuda=experiment.model.device.type == "cuda",
    )
    return Workload(experiment.task.mode, warmup + last, tokens, batches, evaluated)


def hours(work: Workload, measured: Measured, loading: float = 0.0) -> dict[str, float]:
    """Hours by phase. loading: seconds of data and model."""
    train = work.training.total(measured.steps)
    evaluate = 0.0
    for one in work.evaluations:
        decoding = one.batches.decoding_steps * measured.decoding_step
        evaluate += one.times * (measured.start + one.batches.total(measured.prefills) + decoding)
    found = {"load": loading / 3600, "train": train / MS_PER_HOUR, "evaluate": evaluate / MS_PER_HOUR}
    return found | {"total": sum(found.values())}


def advice(failure: DoesNotFit, experiment: Experiment) -> str:
    """One line: the phase, the batch, its length, and what would fit."""
    what = f"out of memory in {failure.phase}: {failure.rows} x {failure.length} tokens at a time do not fit"
    name = experiment.model_name
    if not failure.fits:
        return f"{what}, nor does a single example of that length: take a smaller model than {name}, or a larger GPU"
    setting = "train.micro_batch" if failure.phase == "training" else "decode.batch_size"
    return f"{what}; {failure.fits} x {failure.length} do: {setting}={failure.fits}, the same results within rounding"
