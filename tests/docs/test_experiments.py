"""The figures of docs/experiments.md are those of the committed results."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "shipped"
pytestmark = pytest.mark.skipif(not (RESULTS / "runs").is_dir(), reason="the results lie in a checkout alone")
COLUMNS = ("glue_rte", "glue_mrpc", "glue_cola", "glue_sst2", "dart_small", "dialogsum", "spider_small")
FEW = ("lora", "bitfit", "additional_scan (s4d)", "additional_scan (official)", "prompt", "prefix", "initial_state")
FULL = "full h'"
FEW_WITH_Y = (*FEW, "state_offset_y")


def page() -> str:
    return " ".join((ROOT / "docs" / "experiments.md").read_text(encoding="utf-8").split())


def rows(name: str) -> list[dict[str, str]]:
    with open(RESULTS / "tables" / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def points(row: dict[str, str]) -> str:
    mean = f"{100 * float(row['mean']):.2f}"
    return f"{mean} ± {100 * float(row['sd']):.2f}" if row["sd"] else mean


def differences(column: str) -> dict[str, tuple[float, float, float]]:
    found = [row for row in rows("mamba_25m-compare") if row["column"] == column]
    return {
        row["second"]: (100 * float(row["difference"]), 100 * float(row["low"]), 100 * float(row["high"]))
        for row in found
    }


def ranks() -> dict[str, float]:
    return {row["row"]: float(row["average_rank"]) for row in rows("mamba_25m") if row["average_rank"]}


def test_the_table_is_the_records() -> None:
    text = page()
    by_row: dict[str, list[dict[str, str]]] = {}
    for row in rows("mamba_25m"):
        by_row.setdefault(row["row"], []).append(row)
    for label, found in by_row.items():
        assert tuple(row["column"] for row in found) == COLUMNS
        line = re.search(rf"\| {re.escape(label)} \| [^|]+ \|((?: [^|]+ \|){{8}})", text)
        assert line is not None, label
        *scores, rank = (part.strip(" *") for part in line[1].strip("|").split("|"))
        assert scores == [points(row) for row in found], label
        assert rank == (f"{float(found[0]['average_rank']):.2f}" if found[0]["average_rank"] else "-"), label


def test_the_ranks_of_the_answer() -> None:
    found = ranks()
    others = [rank for name, rank in found.items() if name not in ("full", "state_offset", "bitfit", "lora")]
    assert (
        f"({found['state_offset']:.1f}; bitfit {found['bitfit']:.1f}, LoRA {found['lora']:.1f}, the others "
        f"{min(others):.1f} and more)"
    ) in page()
    assert f"stays ahead of all ({found['full']:.1f})" in page()


def test_the_comparisons_are_counted() -> None:
    pairs = rows("mamba_25m-compare")
    better = sum(float(row["low"]) > 0 for row in pairs)
    worse = [row["second"] for row in pairs if float(row["high"]) < 0]
    assert (better, len(worse), len(pairs), worse.count("full")) == (28, 4, 63, 3)
    assert "better in 28 and worse in 4 of 63 comparisons, three of the four against full fine-tuning" in page()
    sure = [float(row["difference"]) for row in pairs if float(row["holm"]) < 0.05]
    ahead, behind = sum(one > 0 for one in sure), sum(one < 0 for one in sure)
    assert f"p < 0.05) it is better in {ahead} and worse in {behind}." in page()


def test_what_is_said_of_each_task() -> None:
    text = page()
    cola, sst2, dart, dialogsum = (differences(name) for name in COLUMNS[2:6])
    assert {name for name in FEW_WITH_Y if cola[name][1] <= 0} == {"bitfit"}
    for name, found in (("bitfit", cola), ("full", cola), ("lora", dart), ("additional_scan (s4d)", dart)):
        difference, low, high = found[name]
        assert f"{difference:+.1f}, {low:+.1f} to {high:+.1f}" in text, name
    assert all(sst2[name][1] > 0 for name in FEW_WITH_Y)
    smallest = int(10 * min(sst2[name][0] for name in FEW_WITH_Y)) / 10
    assert f"better than each of them, by {smallest} points and more" in text
    assert {name for name in FEW_WITH_Y if dart[name][1] <= 0} == {"lora", "additional_scan (s4d)"}
    assert {name for name in FEW_WITH_Y if dialogsum[name][1] <= 0} == {"lora", "additional_scan (s4d)", "bitfit"}
    level = ", ".join(
        f"{label}{dialogsum[name][0]:+.1f})"
        for name, label in (("lora", "LoRA ("), ("additional_scan (s4d)", "additional_scan (s4d; "))
    )
    assert f"level with {level} and bitfit ({dialogsum['bitfit'][0]:+.1f})" in text


def test_the_cheaper_offset_and_the_official_start() -> None:
    text = page()
    behind = [differences(name)["state_offset_y"][0] for name in COLUMNS[2:6]]
    assert f"{min(behind):.0f} to {max(behind):.0f} points behind on CoLA, SST-2, DART and DialogSum" in text
    means = {(row["row"], row["column"]): 100 * float(row["mean"]) for row in rows("mamba_25m")}
    gaps = {name: means["additional_scan (s4d)", name] - means["additional_scan (official)", name] for name in COLUMNS}
    assert {name for name, gap in gaps.items() if gap > 5} == {"glue_cola", "glue_sst2", "dart_small", "dialogsum"}
    assert "far behind the s4d start on CoLA, SST-2, DART and DialogSum." in text


def test_ranks_and_tokens() -> None:
    text = page()
    found = {(row["row"], row["column"]): f"{100 * float(row['mean']):.1f}" for row in rows("mamba_25m_rank")}
    labels = [label for label in dict.fromkeys(row for row, _ in found) if label.startswith("rank")]
    named = [(label.removeprefix("rank "), label) for label in labels]
    said = [f"{name}: {found[label, 'glue_cola']}, {found[label, 'dart_small']}" for name, label in named]
    whole = f"full: {found[FULL, 'glue_cola']}, {found[FULL, 'dart_small']}"
    assert f"rank {'; '.join(said)}; {whole}" in text
    tokens = {(row["row"], row["column"]): f"{100 * float(row['mean']):.1f}" for row in rows("mamba_25m_tokens")}
    for method in ("prefix on DART", "prompt"):
        mine = [value for (label, column), value in tokens.items() if column == "dart_small" and method[:6] in label]
        assert f"{method} {', '.join(mine)}" in text, mine


def test_how_many_records_are_dirty() -> None:
    dirty: dict[str, int] = {}
    for path in (RESULTS / "runs").glob("*/*/record.json"):
        record = json.loads(path.read_bytes())
        dirty[record["cell"]["model"]] = dirty.get(record["cell"]["model"], 0) + bool(record["git"]["dirty"])
    assert f"{dirty['mamba_25m']} records were made from a checkout" in page()
    assert f"All {dirty['tiny']} records of the tiny table are dirty" in page()
