"""How a run's steps use the GPU: as CUDA graphs or not, and what they recompute to fit into memory."""

from __future__ import annotations

from ssm_tune.data.collator import length_bucket
from ssm_tune.data.token_cache import TokenizedDataset
from ssm_tune.experiment.setup import Experiment
from ssm_tune.training.distributed import SINGLE_PROCESS, ProcessGroup
from ssm_tune.training.recompute_plan import RecomputePlan, plan_recompute


def uses_cuda_graphs(experiment: Experiment) -> bool:
    """Whether training steps run as CUDA graphs."""
    return experiment.uses_cuda_graphs


def plan_memory(
    experiment: Experiment, sequences: TokenizedDataset, group: ProcessGroup = SINGLE_PROCESS
) -> RecomputePlan:
    """What is recomputed of the longest micro batch that training may meet. Raises UserError as ``plan_recompute``."""
    settings = experiment.config.train
    rows = settings.micro_batch or experiment.train.batch_size // group.size
    length, labels = max(sequences.lengths()) - 1, rows * int(sequences.labels.max())
    if uses_cuda_graphs(experiment):
        length, labels = length_bucket(length, labels)
    return plan_recompute(
        experiment.model,
        experiment.method,
        experiment.adapter_dtype,
        (rows, length, labels),
        settings.recompute,
        settings.memory,
    )
