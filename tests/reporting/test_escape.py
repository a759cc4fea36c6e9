"""Hostile texts in every format that results are written in: shown as they are, and nothing else happens."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.hostile_texts import HOSTILE
from helpers.make_records import make_record
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ssm_tune.reporting.escape import csv_text, markdown_text
from ssm_tune.reporting.export_formats import latex, records_csv
from ssm_tune.reporting.html.page import page
from ssm_tune.reporting.palette import looks
from ssm_tune.reporting.render import markdown, terminal, text_table
from ssm_tune.reporting.run_tables import tables_from_records
from ssm_tune.reporting.table import average_ranks
from ssm_tune.utils.files import write_jsonl
from ssm_tune.utils.text import printable


def hostile_record(text: str) -> Any:
    change = {f"cell__{name}": text for name in ("task", "data", "model", "protocol", "method")}
    options = {text: text, "list": [text]}
    return make_record(**change, cell__method_options=options, signatures={text: text}) | {"headline": ["rougeL", text]}


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_format_lets_a_name_do_anything(text: str, tmp_path: Path) -> None:
    record = hostile_record(text)
    (table,) = tables_from_records([record])
    shown = text_table(table)
    console = Console(width=200, force_terminal=False, highlight=False, file=io.StringIO())
    terminal(shown, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    made = markdown(shown)
    for one in (printed, made, latex(shown), records_csv([record])):
        assert all(c.isprintable() or c == "\n" for c in one)
    rows = [line for line in made.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows}) == 1
    assert not re.search(r"(?<!\\)(?:\\\\)*[<`\[&$]", made)
    assert all(not line or line.startswith(("%", "\\")) or line.endswith("\\\\") for line in latex(shown).splitlines())
    for row in csv.reader(io.StringIO(records_csv([record]))):
        assert not any(field.startswith(("=", "@", "+")) or re.match(r"-\D", field) for field in row)
    write_jsonl(tmp_path / "steps.jsonl.gz", [{"step": 1, "loss": 1.0}])
    write_jsonl(tmp_path / "predictions.jsonl.gz", [{"id": text, "output": text}])
    html = page([table], {id(record): tmp_path}, lambda record: {}, 3)
    html.encode()
    assert "<script>alert" not in html
    assert "<img" not in html


@given(st.text())
def test_printable_text_is_one_line_and_unchanged_where_it_can_be(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert (shown == text) == text.isprintable()
    assert "\n" not in markdown_text(text)


@given(st.lists(st.lists(st.one_of(st.text(), st.floats(allow_nan=False), st.integers(), st.none())), min_size=1))
def test_csv_reads_back(rows: list[list[Any]]) -> None:
    width = max(map(len, rows))
    rows = [row + [None] * (width - len(row)) for row in rows]
    head = [f"c{place}" for place in range(width)] or ["c"]
    back = list(csv.reader(io.StringIO(csv_text(head, rows if width else []))))
    for row, read in zip(rows if width else [], back[1:], strict=False):
        for value, field in zip(row, read, strict=False):
            if isinstance(value, float):
                assert float(field) == value


@pytest.mark.parametrize("text", ["a $x$ b", "$", "a\\$b", "\\alpha", "\u4e2d\u6587", "a_b^c", "\x1b[31m"])
def test_figures_draw_names_literally(text: str) -> None:
    pytest.importorskip("matplotlib")
    import warnings

    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from ssm_tune.reporting.table_figures import drawable

    figure = Figure()
    title: Text = figure.suptitle(drawable(text))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png")
    words, is_math = title._preprocess_math(title.get_text())  # type: ignore[attr-defined]
    assert not is_math
    assert words == "".join(c if ord(c) < 127 and c.isprintable() else ascii(c)[1:-1] for c in text)


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=8))
def test_average_ranks_are_scipys_and_ignore_rounding(scores: list[list[int]]) -> None:
    from scipy.stats import rankdata

    expected = [
        sum(ranks) / 3 for ranks in zip(*(rankdata([-x for x in c]) for c in zip(*scores, strict=True)), strict=True)
    ]
    assert average_ranks([[x / 10 for x in row] for row in scores]) == pytest.approx(expected)
    shaken = [[x / 10 + place * 1e-17 + 2e-18 for place, x in enumerate(row)] for row in scores]
    assert average_ranks(shaken) == pytest.approx(expected)


def test_a_method_has_one_colour_and_its_rows_are_told_apart() -> None:
    alone = looks([("lora", "lora"), ("full", "full")])
    among = looks([("bitfit", "bitfit"), ("lora", "lora"), ("mine", "mine")])
    assert alone["lora"].colour == among["lora"].colour
    ranks = looks([(f"rank {n}", "state_offset") for n in range(6)])
    assert len({(look.colour, look.marker) for look in ranks.values()}) == 6


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_table_prints_on_any_terminal(encoding: str) -> None:
    records = [make_record(seed=seed, score=seed / 10) for seed in (1, 2)]
    (table,) = tables_from_records(records)
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    terminal(text_table(table), Console(width=120, highlight=False, file=stream))
    stream.flush()
    printed = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert ("15.00 +- 7.07" if encoding == "ascii" else "15.00 ± 7.07") in printed
    assert "\\x" not in printed
