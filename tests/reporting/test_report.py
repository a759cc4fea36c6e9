"""The HTML report, in a browser where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.make_records import make_record

from ssm_tune.commands import report
from ssm_tune.records.record import write_record
from ssm_tune.utils.files import write_jsonl

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    for index, (method, score) in enumerate((("state_offset", 0.2), ("state_offset_y", 0.4), ("initial_state", 0.3))):
        folder = tmp_path / "runs" / "samsum" / f"run-{index}"
        settings = {"train": {"epochs": 1, "max_steps": 70}, "decode": {"num_beams": 1}}  # as the table has it
        write_record(folder, make_record(method, score=score, config=settings))
        write_jsonl(folder / "steps.jsonl.gz", [{"step": n, "loss": 3 / n} for n in range(1, 50)])
        write_jsonl(folder / "predictions.jsonl.gz", [{"id": "7", "output": f"<b>{method}</b> & more"}])
    assert report.main(["--results", str(tmp_path), "--output", str(tmp_path / "r.html")]) == 0
    return tmp_path / "r.html"


def test_it_asks_for_nothing_and_escapes_what_models_wrote(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=|@import|url\(|https?:", text)
    assert "&lt;b&gt;state_offset&lt;/b&gt; &amp; more" in text
    assert text.count("<polyline") >= 3


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")
def test_pressing_a_heading_sorts(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    press = "<script>[...document.querySelectorAll('th button')].find(b => b.textContent.startsWith('samsum')).click()"
    page.write_text(text.replace("</body>", press + "</script></body>"), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    body = shown.split("<tbody>")[1].split("</tbody>")[0]
    labels = re.findall(r'<tr><td data-value="([^"]+)"', body)
    assert labels[:4] == ["state_offset_y", "initial_state", "state_offset", "base model"]
    assert 'aria-sort="descending"' in shown
