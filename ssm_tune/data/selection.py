"""Which examples of a data set a run uses. Imports no torch."""

from __future__ import annotations

import dataclasses

from ssm_tune.data.tokenization import too_long
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.tasks.base import Dataset, Roles, Task
from ssm_tune.tasks.splits import subsample
from ssm_tune.utils.errors import UserError


def examples_of_run(dataset: Dataset, roles: Roles, selection_examples: int | None, trial: bool) -> Dataset:
    """The data set with ``selection_examples`` of its selection split (None: all), and for a trial no reported split.

    Raises UserError where the split to take a part of is reported too.
    """
    splits = dict(dataset.splits)
    if selection_examples is not None:
        if roles.selected_on_report:
            raise UserError("splits.selection_examples: the selection split is reported too, and is scored whole")
        splits[roles.selection] = subsample(splits[roles.selection], selection_examples)
    if trial:
        del splits[roles.report]
    return dataclasses.replace(dataset, splits=splits)


def within_token_limit(
    dataset: Dataset, task: Task, protocol: str, tokenizer: Tokenizer
) -> tuple[Dataset, dict[str, list[str]], list[str]]:
    """The data set without the examples that the protocol finds too long.

    Returns the data set, by split the ids of the examples that are left out, and notes for the record.
    Raises UserError where a split has no example left.
    """
    limit = task.max_tokens(protocol)
    if limit is None:
        return dataset, {}, []
    from ssm_tune.data.token_cache import tokenized_training_set  # NumPy: only where a protocol has a limit

    splits, left_out, notes = {}, {}, []
    for name, examples in dataset.splits.items():
        long = set(too_long(examples, tokenized_training_set(examples, task, tokenizer).lengths(), limit, tokenizer))
        splits[name] = [example for example in examples if example.id not in long]
        if long:
            left_out[name] = sorted(long)
            notes.append(f"{len(long)} of {len(examples)} examples of {name} are left out: longer than {limit} tokens")
        if not splits[name]:
            raise UserError(f"{dataset.name}: every example of {name} is longer than {limit} tokens in this tokenizer")
    return dataclasses.replace(dataset, splits=splits), left_out, notes
