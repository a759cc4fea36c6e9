"""The leaderboard: what is averaged and what stands apart, how sure ranks and differences are, and what they cost."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.make_records import make_record
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from ssm_tune.cli import main
from ssm_tune.config.groups import FAMILIES, method_section
from ssm_tune.methods.base import load_method
from ssm_tune.models.config import Mamba2Config, MambaConfig
from ssm_tune.records.record import find_records, references_sha256, write_record
from ssm_tune.records.where import shipped_dir
from ssm_tune.reporting import search_cost as costs
from ssm_tune.reporting.figure_data import front
from ssm_tune.reporting.planned_table import fill
from ssm_tune.reporting.significance import holm, rank_intervals
from ssm_tune.reporting.table import Table
from ssm_tune.reporting.table_spec import load_table_spec, parse_table_spec
from ssm_tune.sweeps.sweep_file import read_sweep
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import write_jsonl

RESULTS = shipped_dir()
SUMMARY = ["score", "rank", "trainable", "adapter", "train_seconds", "memory", "generated_per_second", "search_trials"]
PLAN: dict[str, Any] = {
    "seeds": [1, 2], "model": "tiny", "data": "sample", "summary": SUMMARY, "set_apart": True, "compare": "lora",
    "columns": [{"task": "samsum"}, {"task": "glue_sst2"}, {"task": "glue_rte"}],
    "rows": {"some": ["lora", "bitfit", "prompt"]},
}  # fmt: skip


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holms_correction_is_closed_testing_with_bonferronis(p: list[float]) -> None:
    """By the closure principle (Marcus et al. 1976) a hypothesis is rejected where every set that holds it is."""
    numbers = range(len(p))
    sets = [one for size in range(1, len(p) + 1) for one in itertools.combinations(numbers, size)]
    local = {one: min(1.0, len(one) * min(p[number] for number in one)) for one in sets}
    assert holm(p) == pytest.approx([max(value for one, value in local.items() if n in one) for n in numbers])


def test_a_rank_is_as_sure_as_the_draws_of_columns_and_seeds() -> None:
    # one seed, two columns that order the rows otherwise: each of the four draws of columns has its average ranks
    scores = [[[0.9], [0.1]], [[0.5], [0.5]], [[0.1], [0.8]]]
    drawn = []
    for columns in itertools.product((0, 1), repeat=2):
        ranks = [rankdata([-row[column][0] for row in scores]) for column in columns]
        drawn.append(np.mean(ranks, axis=0))
    expected = np.array([np.min(drawn, axis=0), np.max(drawn, axis=0)]).T
    np.testing.assert_allclose(rank_intervals(scores), expected)
    # of rows that are apart at every seed the rank is sure; ties share it
    assert rank_intervals([[[0.1, 0.2]] * 3, [[0.5, 0.6]] * 3, [[0.5, 0.6]] * 3]) == [(3, 3), (1.5, 1.5), (1.5, 1.5)]


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(0, 1)), min_size=1))
def test_the_front_holds_what_no_other_beats_in_both(points: list[tuple[float, float]]) -> None:
    best = front(points)
    assert all(not any(c <= cost and s > score for c, s in points) for cost, score in best)
    assert all(any(c <= cost and s >= score for c, s in best) for cost, score in points)


def store_text(results: Path, method: str, seed: int, score: float) -> None:
    folder = results / "runs" / "samsum" / f"{method}-{seed}"
    generator = random.Random(seed)
    scores = [score + generator.uniform(-0.05, 0.05) for _ in range(40)]
    write_record(folder, make_record(method, seed, sum(scores) / 40))
    for name, values in (("predictions", scores), ("predictions-frozen", [0.1] * 40)):
        write_jsonl(folder / f"{name}.jsonl.gz", [
            {"id": str(n), "output": "", "statistics": {"rougeL": value}, "references_sha256": f"of {n}"}
            for n, value in enumerate(values)
        ])  # fmt: skip


def store_labels(results: Path, task: str, method: str, seed: int, right: Sequence[bool], **changes: Any) -> None:
    """Of 100 examples 60 have the label 1."""
    folder = results / "runs" / task / f"{method}-{seed}"
    record = make_record(method, seed, cell__task=task, primary_metric="accuracy", headline=["accuracy"], **changes)
    for part in ("best", "last"):
        accuracy = {"accuracy": sum(right) / len(right)}
        record["metrics"][part] |= {"selection": accuracy, "report": accuracy}
    record["metrics"]["frozen"] = None
    write_record(folder, record)
    write_jsonl(folder / "predictions.jsonl.gz", [
        {"id": str(n), "output": "", "statistics": {"correct": float(good), "outside": 0.0},
         "references_sha256": references_sha256(("1" if n < 60 else "0",))}
        for n, good in enumerate(right)
    ])  # fmt: skip


def filled(results: Path, plan: dict[str, Any] = PLAN) -> Table:
    found, _ = find_records(results)
    folders = {id(record): path.parent for path, record in found}
    return fill(parse_table_spec("board", plan), [record for _, record in found], folders)


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """Of three methods one learns SST-2; on RTE the best is four answers ahead of the commonest label."""
    for seed in (1, 2):
        for method, text, sst2, rte in (("lora", 0.5, 90, 64), ("bitfit", 0.4, 61, 60), ("prompt", 0.3, 60, 55)):
            store_text(tmp_path, method, seed, text)
            store_labels(tmp_path, "glue_sst2", method, seed, [n < sst2 for n in range(100)])
            store_labels(tmp_path, "glue_rte", method, seed, [n < rte for n in range(100)])
    return tmp_path


def test_a_task_on_which_nothing_beats_the_commonest_label_stands_apart(board: Path) -> None:
    table = filled(board)
    assert table.apart == ("glue_rte",)
    rows = {row.label: row for row in table.rows}
    assert rows["lora"].summary["score"] == pytest.approx((0.5 + 0.9) / 2, abs=0.02)  # RTE is not averaged in
    assert [rows[name].rank for name in ("lora", "bitfit", "prompt")] == [1, 2, 3]
    assert rows["lora"].rank_interval == (1, 1)
    # nor where no method beats the base model's texts
    for seed in (1, 2):
        for method in ("lora", "bitfit", "prompt"):
            store_text(board, method, seed, 0.1)
    assert filled(board).apart == ("samsum", "glue_rte")


def test_a_summary_is_of_the_columns_that_count(board: Path) -> None:
    lora = next(row for row in filled(board).rows if row.label == "lora")
    one = make_record("lora")
    assert lora.summary["train_seconds"] == pytest.approx(one["seconds"]["train"])
    assert lora.summary["adapter"] == pytest.approx(4 * one["parameters"]["trainable"] / 1e6)
    assert lora.summary["generated_per_second"] == pytest.approx(700 / 5)
    assert lora.summary["search_trials"] is None  # the rate was no search's
    (board / "runs" / "samsum" / "lora-1" / "record.json").unlink()
    (board / "runs" / "samsum" / "lora-2" / "record.json").unlink()
    lora = next(row for row in filled(board).rows if row.label == "lora")
    assert (lora.summary["score"], lora.summary["train_seconds"], lora.rank) == (None, None, None)
    assert lora.summary["trainable"] == one["parameters"]["trainable"]


def test_what_a_search_cost_stands_beside_the_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tuned").mkdir()
    origin = '{"tried": [[0.001, 0.5], [0.01, 0.4]], "trials": 6, "seconds": 12.5}'
    (tmp_path / "tuned" / "mine.yaml").write_text(
        f"adapter_dtype: float32\nlearning_rate: {{tiny: {{samsum: {{lora: 0.001}}}}}}\n"
        f"trials: {{tiny: {{samsum: {{lora: {origin}}}}}}}\n"
    )
    monkeypatch.setattr(costs, "conf_dir", lambda: tmp_path)
    costs._tuned_file.cache_clear()
    found = make_record("lora", learning_rate={"value": 0.001, "source": "mine"})
    other = make_record("lora", learning_rate={"value": 0.002, "source": "mine"})
    hostile = make_record("lora", learning_rate={"value": 0.001, "source": "../tuned/mine"})
    assert [costs.search_cost(one) for one in (found, other, hostile)] == [(6, 12.5), None, None]  # type: ignore[arg-type]
    costs._tuned_file.cache_clear()


def test_two_checkpoints_under_one_name_are_refused_in_one_line(
    board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = board / "board.yaml"
    plan.write_text("summary: [score]\nmodel: tiny\ndata: sample\ncolumns: [{task: glue_rte}]\nrows: {a: [lora]}\n")
    store_labels(board, "glue_rte", "full", 1, [True] * 100, hashes__model="0" * 64)
    assert main(["table", str(plan), "--results", str(board)]) == 2
    err = capsys.readouterr().err
    assert "two checkpoints under the name tiny" in err
    assert err.count("\n") == 1
    plan.write_text("summary: [score]\nmodel: tiny\ncolumns: [{task: glue_rte}]\nrows: {a: [lorra]}\n")
    assert main(["table", str(plan), "--results", str(board)]) == 2
    assert "there is no method 'lorra': did you mean lora" in capsys.readouterr().err
    with pytest.raises(ValueError, match="summary must be a list of score, rank"):
        parse_table_spec("t", PLAN | {"summary": ["sore"]})


def test_a_table_has_the_rows_of_its_sweep() -> None:
    for name, model in (("leaderboard", "mamba_25m"), ("leaderboard_mamba2", "mamba2_25m")):
        spec = load_table_spec(name)
        runs = [run.overrides for run in read_sweep(["+sweep=leaderboard"]).runs]
        mine = [run for run in runs if f"model.name={model}" in run]
        assert len(mine) == len(spec.rows) * len(spec.columns) * len(spec.seeds)
        (line, *_) = fill(spec, []).missing
        assert f"model.name={model}" in line.split()


SIZES: dict[str, Any] = {
    "mamba_25m": MambaConfig(d_model=512, n_layer=12, vocab_size=8192),
    "mamba2_25m": Mamba2Config(d_model=512, n_layer=12, vocab_size=8192),
}


@pytest.mark.parametrize(("name", "family"), [("leaderboard", "mamba"), ("leaderboard_mamba2", "mamba2")])
def test_methods_whose_size_can_be_chosen_stand_near_the_common_sizes(name: str, family: str) -> None:
    spec = load_table_spec(name)
    sizes = SIZES[spec.columns[0].model]

    def count(method: str, **options: Any) -> int:
        return load_method(method_section(method, options, family)).num_trainable_params(sizes)

    common = [count("state_offset_y"), count("state_offset"), count("lora")]
    of_rows = {
        row.label: load_method(method_section(row.method, dict(row.asked), family)).num_trainable_params(sizes)
        for row in spec.rows
    }
    usual = {row.label for row in spec.rows if not row.changed}
    for label, trained in of_rows.items():
        if label not in usual and "a_init=s4d" not in label.split()[-1]:
            assert min(abs(trained / size - 1) for size in common) < 0.13, f"{label}: {trained}"
    assert family in FAMILIES


@pytest.mark.skipif(not (RESULTS / "runs").is_dir(), reason="the results lie in a checkout alone")
def test_the_committed_records_fill_the_leaderboard() -> None:
    found, _ = find_records(RESULTS)
    chosen = [(path, record) for path, record in found if record["cell"]["model"] == "mamba_25m"]
    folders = {id(record): path.parent for path, record in chosen}
    table = fill(load_table_spec("leaderboard"), [record for _, record in chosen], folders)
    # a majority class of 146 of 277 on RTE, of 279 of 408 on MRPC; on Spider four of 167 questions at most
    assert table.apart == ("glue_rte", "glue_mrpc", "spider_small")
    rows = {row.label: row for row in table.rows}
    assert rows["full"].rank == 1
    assert rows["state_offset"].summary["search_trials"] == 4 * 5
    low, high = rows["lora"].rank_interval or (0, 0)
    assert low < (rows["lora"].rank or 0) < high


def test_a_sweep_that_is_none_is_refused() -> None:
    with pytest.raises((ValueError, UserError), match="no sweep"):
        parse_table_spec("t", PLAN | {"rows": None, "sweep": "leaderbord"})
