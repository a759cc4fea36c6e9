"""Tables and figures from synthetic records written and found by record.py."""

from __future__ import annotations

import random
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from helpers.make_records import make_record
from rich.console import Console

from ssm_tune.commands import table as command
from ssm_tune.records.record import write_record
from ssm_tune.reporting import run_figure as figures
from ssm_tune.reporting.render import markdown, terminal, text_table
from ssm_tune.reporting.run_tables import tables_from_records
from ssm_tune.reporting.table import BASE, Row, Table, Value
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import write_jsonl

METHODS = (
    *("state_offset", "state_offset_y", "initial_state", "prefix", "prompt", "lora", "bitfit"),
    *("additional_scan", "full"),
)


def printed(table: Table, width: int = 80) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        terminal(text_table(table), console)
    return capture.get()


def store(results: Path, *records: Any) -> None:
    for index, record in enumerate(records):
        folder = results / "runs" / record["cell"]["task"] / f"run-{index}"
        write_record(folder, record)
        steps = ({"step": step, "epoch": 1, "loss": 3 / step**0.2, "learning_rate": 1e-3} for step in range(1, 101))
        write_jsonl(folder / "steps.jsonl", steps)


def table_of(*records: Any) -> Table:
    (table,) = tables_from_records(records)
    return table


def methods_of(table: Table) -> list[Row]:
    return [row for row in table.rows if row.method != BASE]


def value_of(table: Table, row: Row, what: str) -> Value:
    return row.values[""][table.heads[0].show.index(what)]


def seeds_of(table: Table) -> list[tuple[int, ...]]:
    return [value_of(table, row, "rougeL").seeds for row in methods_of(table)]


def mean_of(table: Table, row: Row, what: str = "rougeL") -> float:
    one = value_of(table, row, what).stat
    assert one is not None
    return one.mean


def test_seeds_are_averaged_with_the_sample_deviation() -> None:
    scores = [0.20, 0.25, 0.33]
    table = table_of(*(make_record(seed=seed, score=score) for seed, score in enumerate(scores)))
    base, row = table.rows
    assert (base.label, mean_of(table, base), mean_of(table, base, "trainable")) == (BASE, 0.1, 0)
    found = value_of(table, row, "rougeL").stat
    assert found is not None
    assert found.mean == pytest.approx(statistics.mean(scores))
    assert found.sd == pytest.approx(statistics.stdev(scores))
    assert mean_of(table, row, "last") == pytest.approx(statistics.mean(scores) - 0.01)
    assert (seeds_of(table), mean_of(table, row, "trainable"), row.label) == ([(0, 1, 2)], 12288, "state_offset")


def test_a_single_seed_has_no_deviation() -> None:
    text = printed(table_of(make_record(score=0.25)))
    assert "±" not in text.split("points")[0]
    assert "25.00" in text
    assert "24.00" in text  # the last epoch


@pytest.mark.parametrize(
    "change",
    [
        {"cell__protocol": "paper"},
        {"cell__data": "dialogsum"},
        {"hashes__data": "e" * 64},
        {"cell__model": "other"},
        {"hashes__model": "n" * 64},
        {"cell__task": "dart"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_never_in_one_table(change: dict[str, Any]) -> None:
    tables = tables_from_records([make_record(), make_record(seed=1), make_record(**change)])
    assert sorted(len(seeds) for table in tables for seeds in seeds_of(table)) == [1, 2]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"cell__method_options": {"rank": 4}}, "rank=4"),
        ({"learning_rate__value": 0.01}, "lr=0.01"),
        ({"backend__adapter_dtype": "bfloat16"}, "adapter_dtype=bfloat16"),
        ({"backend__dtype": "bfloat16"}, "dtype=bfloat16"),
        ({"config__train__epochs": 3}, "epochs=3"),
        ({"signatures__rouge": "rouge_score 9"}, "signature.rouge=rouge_score 9"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_settings_are_another_row_that_names_them(change: dict[str, Any], word: str) -> None:
    table = table_of(make_record(), make_record(seed=1), make_record(seed=2, **change))
    labels = dict(zip([row.label for row in methods_of(table)], seeds_of(table), strict=True))
    assert labels[f"state_offset {word}"] == (2,)
    assert sorted(labels.values()) == [(1, 42), (2,)]


@pytest.mark.parametrize("change", [{"config__decode__batch_size": 1}, {"backend__device": "cuda:0"}])
def test_what_only_moves_speed_is_the_same_row(change: dict[str, Any]) -> None:
    table = table_of(make_record(), make_record(seed=1, **change))
    assert (len(table.rows), seeds_of(table)) == (2, [(1, 42)])


def test_adapter_dtypes_are_noted() -> None:
    table = table_of(make_record(), make_record("lora", backend__adapter_dtype="bfloat16"))
    assert any("bfloat16 and in float32" in note for note in table.notes)


def test_a_seed_run_twice_counts_once_and_the_newest_wins() -> None:
    old = make_record(score=0.5, finished="2025-01-01T00:00:00+00:00")
    new = make_record(score=0.3, finished="2025-02-01T00:00:00+00:00", config__decode__batch_size=1)
    for records in ([old, new], [new, old]):
        table = table_of(*records)
        assert mean_of(table, table.rows[1]) == 0.3
        assert seeds_of(table) == [(42,)]
        assert any("1 record(s) repeat a seed" in note for note in table.notes)


def test_diverged_runs_are_shown_and_not_averaged() -> None:
    bad = make_record(seed=2, score=0.9, status="diverged")
    table = table_of(make_record(seed=0, score=0.2), make_record(seed=1, score=0.3), bad)
    (row,) = methods_of(table)
    value = value_of(table, row, "rougeL")
    assert mean_of(table, row) == pytest.approx(0.25)
    assert (value.seeds, value.diverged) == ((0, 1), (2,))
    text = printed(table)
    assert "1 diverged" in text
    assert "90.00" not in text


def test_a_run_that_diverged_before_its_first_score() -> None:
    table = table_of(make_record(status="diverged", metrics__best=None, metrics__last=None, metrics__frozen=None))
    (row,) = table.rows
    assert value_of(table, row, "rougeL").stat is None
    assert "1 diverged" in markdown(text_table(table))


def test_selecting_on_the_report_split_is_marked() -> None:
    paper = {"cell__protocol": "paper", "splits__selection": "test", "splits__selected_on_report": True}
    marked = table_of(make_record(score=0.25, **paper))
    assert "25.00*" in printed(marked)
    assert any(note.startswith("*") for note in marked.notes)
    assert "*" not in printed(table_of(make_record(score=0.25)))


def test_base_scores_that_disagree_are_shown_apart() -> None:
    greedy = make_record(seed=1, config__decode={"num_beams": 1})
    greedy["metrics"]["frozen"]["values"]["rougeL"] = 0.05
    table = table_of(make_record(config__decode={"num_beams": 5}), greedy)
    assert [row.label for row in table.rows[:2]] == ["base model num_beams=5", "base model num_beams=1"]


def test_the_base_models_time_is_the_run_that_took_it_not_the_cache() -> None:
    table = table_of(make_record(seed=1, seconds__frozen=None), make_record())
    assert mean_of(table, table.rows[0], "seconds") == 4.0


def full_table() -> Table:
    rng = random.Random(0)
    options = {"rank": 8, "alpha": 8, "targets": ["dt_proj"]}
    return table_of(
        *(
            make_record(
                method,
                seed,
                rng.uniform(0.2, 0.4),
                parameters__trainable=10 ** (3 + index // 2) * (index + 1),
                cell__method_options=options if method == "lora" else {},
            )
            for index, method in enumerate(METHODS)
            for seed in (42, 1042, 2042)
        )
    )


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_table_keeps_every_number_whole(width: int) -> None:
    table = full_table()
    text = printed(table, width)
    assert max(len(line) for line in text.splitlines() if "points" not in line) <= width
    for row in table.rows:
        assert f"{mean_of(table, row, 'trainable'):,.0f}" in text
        for name in ("rouge1", "rouge2", "rougeL"):
            stat = value_of(table, row, name).stat
            assert stat is not None
            assert f"{100 * stat.mean:.2f}" in text
            assert stat.sd is None or f"{100 * stat.sd:.2f}" in text
    for word in (*METHODS, "ROUGE-1", "ROUGE-L", "trainable", "…"):
        assert (word in text) == (word != "…")
    assert "lora: alpha=8 rank=8" in text


def test_markdown_has_the_same_cells_in_every_line() -> None:
    record = make_record(cell__method_options={"name": "a|b"}, score=0.25)
    text = markdown(text_table(table_of(record, make_record(seed=1))))
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    assert "state\\_offset" in text


def test_command_prints_filters_and_reports_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, make_record(), make_record(cell__model="other"))
    broken = tmp_path / "runs" / "samsum" / "broken"
    broken.mkdir()
    (broken / "record.json").write_text("{")
    assert command.main(["--results", str(tmp_path), "--model", "other", "--format", "markdown"]) == 0
    out, err = capsys.readouterr()
    assert out.count("###") == 1
    assert "other" in out
    assert "tiny" not in out
    assert f"left out: {broken / 'record.json'} is truncated" in err
    with pytest.raises(UserError, match=r"no finished run matches --task spider; there are .*samsum sample other"):
        command.main(["--results", str(tmp_path), "--task", "spider"])
    with pytest.raises(UserError, match="no finished run under"):
        command.main(["--results", str(tmp_path / "empty")])


@pytest.mark.parametrize("suffix", figures.FORMATS)
def test_command_draws(tmp_path: Path, suffix: str) -> None:
    store(tmp_path, make_record(), make_record("lora", finished="2026-01-01"))
    path = tmp_path / "figures" / f"demo.{suffix}"
    assert command.main(["--results", str(tmp_path), "--figure", str(path)]) == 0
    assert path.read_bytes()[:4] in (b"\x89PNG", b"%PDF", b"<?xm")
    if suffix == "png":
        width, height = (int.from_bytes(path.read_bytes()[start : start + 4], "big") for start in (16, 20))
        assert (width, height) == (1200, 500)


def test_a_single_method_is_drawn_beside_the_base_model_and_several_against_their_sizes(tmp_path: Path) -> None:
    path = tmp_path / "demo.svg"

    def drawn() -> set[str]:
        assert command.main(["--results", str(tmp_path), "--figure", str(path)]) == 0
        return set(re.findall("<!-- (.*?) -->", path.read_text()))  # the texts of the picture

    one = make_record(score=0.287)
    base = one["metrics"]["frozen"]["values"]["rougeL"]
    store(tmp_path, one)
    assert {"28.7", f"{100 * base:.1f}", "ROUGE-L", "ROUGE-1"} <= drawn()
    assert "trainable parameters" not in drawn()
    store(tmp_path, one, make_record("lora"))
    assert "trainable parameters" in drawn()


def test_a_figure_of_an_unknown_kind_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.png"):
        command.main(["--results", str(tmp_path), "--figure", "picture.bmp"])


def test_a_figure_that_cannot_be_written(tmp_path: Path) -> None:
    store(tmp_path, make_record())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        command.main(["--results", str(tmp_path), "--figure", str(tmp_path / "file" / "demo.png")])


def test_a_diverged_run_can_be_drawn(tmp_path: Path) -> None:
    record = make_record(status="diverged", metrics__best=None, metrics__last=None, metrics__epochs=[])
    store(tmp_path, record)
    folder = tmp_path / "runs" / "samsum" / "run-0"
    write_jsonl(folder / "steps.jsonl", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}])
    assert figures.draw(folder, record, table_of(record), tmp_path / "demo.png").stat().st_size > 1000


def test_smoothing_is_the_running_mean() -> None:
    assert figures.smoothed([1, 2, 3, 4, 5], 3) == [1, 1.5, 2, 3, 4]
