"""The HTML report, in a browser where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from helpers.make_records import make_record

from ssm_tune.commands import report
from ssm_tune.config.compose import compose
from ssm_tune.records.record import write_record
from ssm_tune.records.where import shipped_dir
from ssm_tune.tasks.base import Dataset, load_task
from ssm_tune.utils.files import write_jsonl

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RESULTS = shipped_dir()
HOSTILE = "</template><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")


DATA = {"source": "sample", "path": None, "root": None, "check": "counts", "name": None}


def samsum() -> tuple[dict[str, Any], Dataset]:
    """The task's section of the configuration, and the sample's data."""
    section = compose(["task=samsum", "method=lora", "model=tiny", "data=sample"]).task
    return section, load_task(section).load(DATA, "standard")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Three methods of the table tiny; their settings are those of its column, their data the sample's."""
    task, dataset = samsum()
    settings = {"train": {"epochs": 1, "max_steps": 70}, "decode": {"num_beams": 1}, "data": DATA, "task": task}
    example = dataset.splits["test"][0]
    for index, (method, score) in enumerate((("state_offset", 0.2), ("state_offset_y", 0.4), ("initial_state", 0.3))):
        folder = tmp_path / "runs" / "samsum" / f"run-{index}"
        record = make_record(method, score=score, config=settings, versions__torch=HOSTILE)
        write_record(folder, record | {"hashes": record["hashes"] | {"data": dataset.hash}})
        write_jsonl(folder / "steps.jsonl.gz", [{"step": n, "loss": 3 / n} for n in range(1, 50)])
        row = {"id": example.id, "output": f"<b>{method}</b> {HOSTILE}", "statistics": {"rougeL": 0.125}}
        write_jsonl(folder / "predictions.jsonl.gz", [row])
    assert report.main(["tiny", "--results", str(tmp_path), "--output", str(tmp_path / "r.html")]) == 0
    return tmp_path / "r.html"


def seen(page: Path, script: str) -> str:
    """The page's elements after a script has run in it, as a browser has them."""
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1800", "--dump-dom"]
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=300).stdout


def test_it_asks_for_nothing_and_escapes_what_models_wrote(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    without_texts = re.sub(r"<td>.*?</td>", "", text, flags=re.DOTALL)
    assert not re.search(r"\s(src|href)=|@import|url\(|https?:", without_texts)
    assert "&lt;b&gt;state_offset&lt;/b&gt; &lt;/template&gt;&lt;script&gt;" in text
    assert text.count("<script>") == 1
    assert text.count("<polyline") >= 3


def test_a_cell_has_references_and_the_command_that_repeats_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    (template,) = re.findall(r'<template id="tiny-\d+-\d+"><h3>state_offset_y on samsum.*?</template>', text, re.DOTALL)
    example = samsum()[1].splits["test"][0]
    assert example.references[0] in unescape(template)
    assert example.prompt.splitlines()[0] in unescape(template)
    assert "ROUGE-L 12.5" in template
    command = unescape(re.search(r"<pre>(.*?)</pre>", template, re.DOTALL)[1])  # type: ignore[index]
    words = command.split()
    assert words[0] == "ssm-tune"
    assert {"method=state_offset_y", "task=samsum", "model=tiny", "data=sample", "seed=42"} <= set(words)
    compose(words[1:])  # as it stands


def test_without_a_name_every_run_that_is_found_is_shown(page: Path) -> None:
    """Also one that no table plans, and of two models under one task's name each its own cells."""
    results = page.parent
    for number, model in enumerate(("tiny", "other")):
        for rate in (1e-3, 2e-3):
            run = make_record("lora", score=rate * 100, cell__model=model, cell__data="mine", learning_rate__value=rate)
            folder = results / "runs" / "samsum" / f"mine-{number}-{rate}"
            write_record(folder, run | {"hashes": run["hashes"] | {"model": model}})
            write_jsonl(folder / "steps.jsonl.gz", [{"step": 1, "loss": 2.0}])
            write_jsonl(folder / "predictions.jsonl.gz", [{"id": "1", "output": model, "statistics": {}}])
    assert report.main(["--results", str(results), "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    opened, cells = re.findall(r'data-cell="([^"]+)"', text), re.findall(r'<template id="([^"]+)"', text)
    assert set(opened) == set(cells)
    assert len(cells) == len(set(cells)) == 3 + 2 * 2
    assert {"tiny", "other"} == set(re.findall(r'name="family" value="([^"]+)"', text))
    (template,) = re.findall(r'<template id="[^"]+"><h3>lora lr=0.002 on samsum, other.*?</template>', text, re.DOTALL)
    assert "train.learning_rate</th><td>0.002<" in template


@in_a_browser
def test_pressing_a_heading_sorts(page: Path) -> None:
    shown = seen(
        page, "[...document.querySelectorAll('th button')].find(b => b.textContent.startsWith('samsum')).click()"
    )
    body = shown.split("<tbody>")[1].split("</tbody>")[0]
    labels = re.findall(r'<tr><td data-value="([^"]+)"', body)
    assert labels[:4] == ["state_offset_y", "initial_state", "state_offset", "base model"]
    assert 'aria-sort="descending"' in shown


@in_a_browser
def test_a_cell_opens_and_nothing_from_data_runs(page: Path) -> None:
    shown = seen(page, "document.querySelector('td button').click()")
    (opened,) = re.findall(r"<dialog[^>]*open.*?</dialog>", shown, re.DOTALL)
    assert "<svg" in opened
    assert "&lt;img src=x" in opened
    assert "<img" not in re.sub(r"<template.*?</template>", "", shown, flags=re.DOTALL)
    assert "<title>taken" not in shown


@in_a_browser
def test_a_task_that_is_not_ticked_is_hidden(page: Path) -> None:
    untick = "const b = document.querySelector('input[value=samsum]'); b.checked = false;"
    shown = seen(page, untick + "b.dispatchEvent(new Event('change'))")
    columns = re.findall(r'<t[hd][^>]*data-task="(\w+)"([^>]*)>', shown)
    assert {task for task, rest in columns if "hidden" in rest} == {"samsum"}
    assert len({task for task, rest in columns if "hidden" not in rest}) == 9


@in_a_browser
@pytest.mark.skipif(not (RESULTS / "runs").is_dir(), reason="the results lie in a checkout alone")
@pytest.mark.slow
def test_the_leaderboards_report_filters_by_model(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    line = ["leaderboard", "tiny", "--results", str(RESULTS), "--output", str(path), "--examples", "1"]
    assert report.main(line) == 0
    untick = "const b = document.querySelector('input[name=family][value=tiny]'); b.checked = false;"
    shown = seen(path, untick + "b.dispatchEvent(new Event('change'))")
    assert re.findall(r'<section data-family="(\w+)"([^>]*)>', shown) == [("mamba_25m", ""), ("tiny", ' hidden=""')]
    assert shown.count('class="mark"') >= 20  # ten rows in each of two pictures


@in_a_browser
@pytest.mark.skipif(not (RESULTS / "runs").is_dir(), reason="the results lie in a checkout alone")
@pytest.mark.slow
def test_ten_tasks_and_their_labels_fit_on_a_screen(tmp_path: Path) -> None:
    """At 1,400 pixels the table needs no scrolling, and no drawing's text lies outside of it."""
    path = tmp_path / "r.html"
    assert report.main(["tiny", "--results", str(RESULTS), "--output", str(path), "--examples", "1"]) == 0
    script = """
      const scroll = document.querySelector('.scroll');
      const cut = [...document.querySelectorAll('main svg text')].filter(one => {
        const inner = one.getBoundingClientRect(), outer = one.ownerSVGElement.getBoundingClientRect();
        return inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.bottom > outer.bottom + 1;
      });
      document.body.dataset.seen = `${scroll.scrollWidth <= scroll.clientWidth} ${cut.length}`;
    """
    assert 'data-seen="true 0"' in seen(path, script)
