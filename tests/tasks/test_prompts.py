"""A user's row becomes the very prompt that training makes of it, for every task."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ssm_tune.config.compose import compose
from ssm_tune.config.groups import benchmarks
from ssm_tune.tasks.base import Example, Task, load_task
from ssm_tune.tasks.sample_data import SPIDER_FOLDER, sample_rows
from ssm_tune.utils.errors import UserError

PAIR = [{"text": f"a{n % 7}", "text2": f"b{n % 5}", "label": "yn"[n % 2]} for n in range(40)]
TEXTS = [{"input": f"Say {n}", "target": "a"} for n in range(40)]


def loaded(task: str, *settings: str, protocol: str = "standard") -> tuple[Task, list[Example], list[Example]]:
    """The task, and its training and other examples."""
    config = compose(["method=lora", "model=tiny", f"task={task}", *settings])
    made = load_task(config.task)
    splits = made.load(dataclasses.asdict(config.data), protocol).splits
    return made, splits["train"], splits["val"]


def rows_of(task: str) -> list[dict[str, Any]]:
    """The sample data's validation rows, as they lie in files."""
    if task == "spider":
        return list(json.loads((SPIDER_FOLDER / "dev.json").read_text()))
    return list(sample_rows(task.removeprefix("glue_"), "val"))


@pytest.mark.parametrize("task", sorted(set(benchmarks()) - {"spider"}))
def test_a_benchmarks_row_gives_the_prompt_of_training(task: str) -> None:
    made, _, examples = loaded(task, "data=sample")
    for row, example in zip(rows_of(task)[:5], examples[:5], strict=True):
        asked = made.example_of(row, "standard")
        assert (asked.prefix, asked.prompt) == (example.prefix, example.prompt)
    assert set(made.fields) <= row.keys()


@pytest.mark.parametrize("protocol", ["paper", "standard"])
def test_a_question_and_its_schema_give_spiders_prompt(protocol: str) -> None:
    made, _, examples = loaded("spider", "data=sample", protocol=protocol)
    for row, example in zip(rows_of("spider")[:3], examples[:3], strict=True):
        schema = example.prompt.partition("Schema: ")[2].removesuffix("\n###")
        asked = made.example_of({"question": row["question"], "schema": schema}, protocol)
        assert (asked.prefix, asked.prompt) == (example.prefix, example.prompt)


@pytest.mark.parametrize(("task", "rows"), [("classify", PAIR), ("text2text", TEXTS)])
def test_a_row_of_ones_own_gives_the_prompt_of_training(task: str, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made, train, val = loaded(task, f"data.path={path}", "task.instruction='Well: '")
    by_id = {example.id: example for example in (*train, *val)}
    for number, row in enumerate(rows, start=1):
        if str(number) in by_id:
            asked = made.example_of(row, "standard")
            assert (asked.prefix, asked.prompt) == (by_id[str(number)].prefix, by_id[str(number)].prompt)
    assert made.fields_of(train) == (("text", "text2") if task == "classify" else ("input",))


def test_the_text_of_triples_is_taken_as_well() -> None:
    made, _, _ = loaded("dart", "data=sample")
    row = rows_of("dart")[0]
    text = made.example_of(row, "standard").prompt.removesuffix("###")
    assert made.example_of({"tripleset": text}, "standard") == made.example_of(row, "standard")


@pytest.mark.parametrize("row", [{}, {"sentence1": "a"}, {"sentence1": "a", "sentence2": " "}, {"sentence1": 1}])
def test_a_field_that_lacks_or_is_empty_is_refused(row: dict[str, Any]) -> None:
    made, _, _ = loaded("glue_rte", "data=sample")
    with pytest.raises(UserError, match="sentence"):
        made.example_of(row, "standard")


def test_labels_go_by_the_names_that_the_data_have(tmp_path: Path) -> None:
    made, _, _ = loaded("glue_rte", "data=sample")
    assert made.label_names() == {"0": "entailment", "1": "not_entailment"}
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIR))
    made, train, _ = loaded("classify", f"data.path={path}")
    section = compose(["method=lora", "task=classify", "data.path=none"]).task | made.decided(train)
    assert load_task(section).label_names() == {"0": "n", "1": "y"}
    with pytest.raises(UserError, match=r"add task\.labels"):
        made.label_names()
