"""The settings that all runs share: typed, and checked when the configuration is composed.

``model``, ``task`` and ``method`` are open nodes: their yaml names the class (``_target_``) that checks them.
Hydra checks names and types against these dataclasses; ``__post_init__`` checks ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from ssm_tune.config.choices import CHOICES
from ssm_tune.config.decoding import DecodeConfig
from ssm_tune.config.groups import family_of, names, of_family
from ssm_tune.config.variants import with_tuned_options
from ssm_tune.utils.errors import UserError, nearest


def _require(valid: bool, name: str, value: object, wanted: str) -> None:
    if not valid:
        raise UserError(f"{name} must be {wanted}, got {value!r}")


def _one_of(name: str, value: str) -> None:
    _require(value in CHOICES[name], name, value, "one of " + ", ".join(CHOICES[name]))


@dataclass
class DataConfig:
    source: str = "hub"
    """hub, local (official files in ``path``) or sample (generated, no network)"""
    path: str | None = None
    """folder of the official files, for source=local; of one's own data also a file"""
    root: str | None = None
    """folder that ``path`` is below, so that a sweep file names the folders of several tasks from one place"""
    check: str = "counts"
    """counts: refuse local files whose row counts differ from the published ones; off: accept them as a stand-in;
    own: set by the tasks that read data of one's own, which have no published counts"""
    name: str | None = None
    """the name of a stand-in, or of one's own data, in records and tables; that of its folder or file where null"""

    def __post_init__(self) -> None:
        _one_of("data.source", self.source)
        _one_of("data.check", self.check)
        if self.check == "own":
            if self.source == "sample" or not self.path:
                instead = "; data=sample has none for it" if self.source == "sample" else ""
                raise UserError(
                    f"this task reads data of your own{instead}: add data=local data.path=FILE.jsonl, or the path of a "
                    "folder with train.jsonl, val.jsonl and test.jsonl"
                )
            self.source = "local"  # a path is enough: the hub, which other tasks read by default, has no such data
        if self.source == "local" and not self.path:
            raise UserError("data=local needs the folder of the official files: add data.path=DIR")
        if self.source != "local" and self.path:
            raise UserError(f"data.path is only read with data=local, not with data={self.source}")
        if self.source != "local" and self.check == "off":
            raise UserError(f"data.check=off is only read with data=local, not with data={self.source}")
        if self.name is not None and self.check == "counts":
            raise UserError("data.name is for stand-ins, data=local data.check=off; other data have their own names")
        if self.path is not None:
            self.path = str(Path(self.path).expanduser())
        if self.root is not None:
            if not self.path:
                raise UserError(f"data.root is only read with data=local data.path=DIR, not with data={self.source}")
            self.path, self.root = str(Path(self.root).expanduser() / self.path), None


@dataclass
class SplitConfig:
    selection: str | None = None
    """split that picks the best epoch; the protocol's where null"""
    report: str | None = None
    """split whose scores are reported; the protocol's where null"""
    selection_examples: int | None = None
    """score so many examples of the selection split, drawn by a fixed seed, instead of all of them"""
    limit: int | None = None
    """use at most so many examples of every split, drawn by a fixed seed: to see whether a run works, for no result"""

    def __post_init__(self) -> None:
        if (count := self.selection_examples) is not None:
            _require(count >= 1, "splits.selection_examples", count, "at least 1")
        if self.limit is not None:
            _require(self.limit >= 1, "splits.limit", self.limit, "at least 1")


@dataclass
class TrainConfig:
    epochs: int = 10
    batch_size: int | None = None
    """examples a step; null: conf/tuned's for the run, else 4"""
    micro_batch: int | None = None
    """examples that a process computes at a time, whose gradients are summed; null: all that it has of a batch"""
    learning_rate: float | None = None
    """null: conf/tuned's for the run, else the method's own default"""
    adapter_dtype: str = "auto"
    """bfloat16, float32, or auto: bfloat16 with a learning rate of the paper's on a bfloat16 model, else float32"""
    max_steps: int | None = None
    """stop after so many optimizer steps, before the epochs are over"""
    evaluate_every: int = 1
    """epochs between two evaluations on the selection split; the end of training is always evaluated"""
    max_grad_norm: float = 1.0
    lr_schedule: str = "linear"
    """after the warm-up of the rate: linear or cosine to 0, or constant"""
    lr_warmup: float = 0.0
    """steps over which the rate rises from 0; below 1: that part of all steps"""
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    cuda_graphs: str = "auto"
    """auto: with our CUDA kernels, run steps as CUDA graphs, on batches padded to a few lengths; off: launch singly"""
    deterministic: bool = False
    """the same bits in every run: refuse operations that add in no fixed order, and fix cuBLAS's workspace"""
    recompute: str = "auto"
    """on: the backward computes each block's activations again, and keeps their inputs alone; off: it keeps them; auto:
    as ``memory`` has room"""
    memory: float | None = None
    """GB for activations; null: most of what the GPU has free, and on a CPU as much as it takes"""

    def __post_init__(self) -> None:
        _one_of("train.cuda_graphs", self.cuda_graphs)
        _one_of("train.recompute", self.recompute)
        if self.memory is not None:
            _require(0 < self.memory < 1e6, "train.memory", self.memory, "a positive number of GB")
        _require(self.epochs >= 1, "train.epochs", self.epochs, "at least 1")
        _require(self.evaluate_every >= 1, "train.evaluate_every", self.evaluate_every, "at least 1")
        if self.batch_size is not None:
            _require(self.batch_size >= 1, "train.batch_size", self.batch_size, "at least 1")
        if self.micro_batch is not None:
            _require(self.micro_batch >= 1, "train.micro_batch", self.micro_batch, "at least 1")
        if self.learning_rate is not None:
            _require(0 < self.learning_rate < 1e6, "train.learning_rate", self.learning_rate, "a positive number")
        if self.max_steps is not None:
            _require(self.max_steps >= 1, "train.max_steps", self.max_steps, "at least 1")
        _one_of("train.lr_schedule", self.lr_schedule)
        valid = 0 <= self.lr_warmup < 1 or self.lr_warmup == int(self.lr_warmup) >= 1
        _require(valid, "train.lr_warmup", self.lr_warmup, "a number of steps, or a part of them below 1")
        _one_of("train.adapter_dtype", self.adapter_dtype)
        _require(self.max_grad_norm > 0, "train.max_grad_norm", self.max_grad_norm, "a positive number")
        _require(0 <= self.weight_decay < 1e6, "train.weight_decay", self.weight_decay, "0 or more")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, f"train.{name}", getattr(self, name), "in [0, 1)")
        _require(0 < self.eps < 1, "train.eps", self.eps, "a small positive number")


@dataclass
class CheckpointConfig:
    minutes: float = 10.0
    """between two checkpoints; longer where writing one takes more than a twentieth of the time"""
    steps: int | None = None
    """also after so many optimizer steps or evaluation batches"""

    def __post_init__(self) -> None:
        _require(self.minutes > 0, "checkpoint.minutes", self.minutes, "a positive number")
        if self.steps is not None:
            _require(self.steps >= 1, "checkpoint.steps", self.steps, "at least 1")


@dataclass
class Config:
    """One run of the grid, and how to run it."""

    model: Any = MISSING
    task: Any = MISSING
    method: Any = MISSING
    tuned: Any = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    splits: SplitConfig = field(default_factory=SplitConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: int = 42
    protocol: str = "auto"
    """paper, standard, or auto: paper for the published data, standard for the sample world and stand-ins"""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one"""
    backend: str = "auto"
    """cuda (our kernels), mamba_ssm (the package, to compare), reference (plain PyTorch); auto: cuda where it can"""
    trial: bool = False
    """train and score the selection split alone, as ``ssm-tune search`` does; it leaves a trial and no record"""
    frozen: bool = True
    """also score the base model (once per model, data, task and decoding; then cached)"""
    force: bool = False
    """run a run again although its record exists, and from its start although a checkpoint does"""
    output_dir: str = "results"
    logger: str = "none"
    """wandb (the extra of that name; offline without a key or network) or none; steps.jsonl is written in any case"""

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**31, "seed", self.seed, "a whole number from 0 to 2147483647")
        _one_of("protocol", self.protocol)
        _one_of("device", self.device)
        _one_of("backend", self.backend)
        _one_of("logger", self.logger)
        self.output_dir = str(Path(self.output_dir).expanduser())
        if self.trial:
            self._check_trial()

    def _check_trial(self) -> None:
        """A trial must be unable to see what is reported."""
        if self.protocol != "standard":
            raise UserError(
                f"a search needs protocol=standard, got {self.protocol}: protocol=paper selects on the very split that "
                "it reports"
            )
        for role in ("selection", "report"):
            if (split := getattr(self.splits, role)) is not None:
                raise UserError(
                    f"splits.{role}={split}: a search scores the selection split of protocol=standard and never sees "
                    "the reported one; leave the setting out"
                )
        self.frozen = False  # the base model is scored on the reported split

    @property
    def kept_in(self) -> str:
        """The folder below ``output_dir`` where what the run leaves goes: trials are no results."""
        return "trials" if self.trial else "runs"


def register() -> None:
    """Make the schema known to Hydra, as the base of conf/config.yaml."""
    store = ConfigStore.instance()
    if "schema.yaml" not in store.repo:  # Hydra 1.4 warns where a name is stored twice
        store.store(name="schema", node=Config)


def checked(composed: DictConfig, overrides: Sequence[str]) -> Config:
    """The composed configuration as checked dataclasses; model, task, method and tuned as plain dicts.

    overrides: the settings it was composed of. An option of the method that none of them names has the value that is
    usual for the model's family.
    Raises UserError for a value out of its range, OmegaConf's errors for a wrong type.
    """
    plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    known = [item.name for item in fields(Config)]
    for key in plain.keys() - set(known):
        raise UserError(f"there is no setting {key!r}: {nearest(str(key), known)}")
    for group in ("model", "task", "method"):
        if not isinstance(plain[group], dict):
            raise UserError(f"there is no {group} {plain[group]!r}: {nearest(str(plain[group]), names(group))}")
    sections = {
        "data": DataConfig,
        "splits": SplitConfig,
        "train": TrainConfig,
        "decode": DecodeConfig,
        "checkpoint": CheckpointConfig,
    }
    values: dict[str, Any] = {name: plain[name] for name in known}
    for name, section in sections.items():
        options = [item.name for item in fields(section)]
        for key in values[name].keys() - set(options):
            raise UserError(f"there is no setting '{name}.{key}': {nearest(key, options)}")
        values[name] = section(**values[name])
    given = [text.partition("=")[0].lstrip("+").removeprefix("method.") for text in overrides]
    values["model"] = _below_root(values["model"])
    method = of_family(values["method"], family_of(values["model"]), given)
    values["method"] = with_tuned_options(method, values["tuned"], values["model"], values["task"], given)
    return Config(**values)


def _below_root(model: dict[str, Any]) -> dict[str, Any]:
    """The ``model`` section with ``root``, the folder that its ``path`` is below, joined to that path."""
    found = {key: value for key, value in model.items() if key != "root"}
    if model.get("root") is not None:
        if not found.get("path"):
            raise UserError("model.root is only read with model=local model.path=DIR, which it goes before")
        found["path"] = str(Path(str(model["root"])).expanduser() / str(found["path"]))
    return found
