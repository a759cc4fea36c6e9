"""What all tasks share: split roles, setting part of train aside, names and hashes of data."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_tune.config.protocol import published_data
from ssm_tune.tasks.base import Dataset, Example, Roles, Scored, Task, data_name, make_dataset
from ssm_tune.tasks.splits import hold_out_validation
from ssm_tune.utils.errors import UserError

DATA = {"source": "local", "path": "somewhere/mine", "check": "off", "name": None}


class Echo(Task):
    """The smallest task there can be."""

    def load(self, data: dict[str, Any], protocol: str) -> Dataset:
        return dataset()

    def score(self, outputs: Sequence[str], examples: Sequence[Example]) -> Scored:
        return Scored({"same": 1.0}, [{"same": 1.0}] * len(outputs))

    def signatures(self, examples: Sequence[Example]) -> dict[str, str]:
        return {}

    def published_roles(self) -> Roles:
        return Roles("train", "val", "val")


def examples(count: int, groups: int = 0) -> list[Example]:
    return [Example(str(i), f"{i}###", "a", ("a",), group=f"g{i % groups}" if groups else "") for i in range(count)]


def dataset(train: int = 40, groups: int = 0, **splits: list[Example]) -> Dataset:
    given_splits = {"train": examples(train, groups), "val": examples(4), **splits}
    return make_dataset("some", False, given_splits, "same", ("same",))


def test_roles_under_both_protocols() -> None:
    task = Echo("echo")
    assert task.roles("paper", dataset(), None, None) == Roles("train", "val", "val")
    assert task.roles("standard", dataset(), None, None) == Roles("train", "carved", "val")
    assert task.roles("standard", dataset(test=examples(3)), None, None) == Roles("train", "val", "test")
    assert task.roles("standard", dataset(test=examples(3)), "carved", "val") == Roles("train", "carved", "val")
    with pytest.raises(UserError, match="both pick the epoch and be reported"):
        task.roles("standard", dataset(), "val", "val")
    with pytest.raises(UserError, match="may select but not be reported"):
        task.roles("standard", dataset(), None, "carved")
    with pytest.raises(UserError, match="no split 'dev' to use; there are val"):
        task.roles("standard", dataset(), "dev", None)


@given(count=st.integers(10, 300), groups=st.sampled_from([0, 2, 3, 7, 10]))
def test_carving_parts_train_and_keeps_groups_whole(count: int, groups: int) -> None:
    whole = dataset(count, groups)
    carved = hold_out_validation(whole)
    train, aside = carved.splits["train"], carved.splits["carved"]
    assert train
    assert aside
    assert Counter(train + aside) == Counter(whole.splits["train"])
    assert [e for e in whole.splits["train"] if e in set(train)] == train  # in their order
    key = (lambda e: e.group) if groups else (lambda e: e.id)
    assert not {key(e) for e in train} & {key(e) for e in aside}
    if not groups:
        assert len(aside) == count // 10
    else:  # no more groups than it takes to reach a tenth, unless none would be left to train on
        without_last = len(aside) - max(Counter(map(key, aside)).values())
        assert without_last < max(1, count // 10)
    assert hold_out_validation(whole).splits == carved.splits
    assert carved.hash == whole.hash


@pytest.mark.parametrize(("count", "groups"), [(9, 0), (40, 1)])
def test_too_little_to_hold_out(count: int, groups: int) -> None:
    with pytest.raises(UserError, match="too few to hold some out"):
        hold_out_validation(dataset(count, groups))


def test_published_names_are_for_published_data() -> None:
    assert data_name(DATA, "dart") == "mine"
    assert data_name(DATA | {"name": "other"}, "dart") == "other"
    assert data_name(DATA | {"check": "counts"}, "dart") == "dart"
    assert data_name(DATA | {"source": "hub", "path": None}, "dart") == "dart"
    assert data_name(DATA | {"source": "sample", "path": None}, "dart") == "sample"
    assert published_data(DATA | {"source": "hub"})
    assert not published_data(DATA | {"source": "sample"})
    for name in ("dart", "sample"):
        with pytest.raises(UserError, match=r"add data\.name=NAME"):
            data_name(DATA | {"name": name}, "dart")


def test_the_hash_covers_all_texts_and_the_extra_but_no_context() -> None:
    base = dataset()
    one = base.splits["val"][0]
    seen = {base.hash, make_dataset("some", False, base.splits, "same", ("same",), extra="x").hash}
    for change in ({"prompt": "x"}, {"prefix": "x"}, {"target": "x"}, {"references": ("x",)}, {"id": "x"}):
        seen.add(dataset(val=[dataclasses.replace(one, **change), *base.splits["val"][1:]]).hash)
    assert len(seen) == 7
    assert dataset(val=[dataclasses.replace(one, context=object()), *base.splits["val"][1:]]).hash == base.hash


def test_doubled_ids_and_empty_splits_are_refused() -> None:
    with pytest.raises(UserError, match="duplicate id '0'"):
        dataset(val=examples(1) * 2)
    with pytest.raises(UserError, match="the split val is empty"):
        dataset(val=[])
