"""The HTML report: one file, with its styles, its few lines of script and its drawings inside. Nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ssm_tune.records.record import rows_path
from ssm_tune.records.schema import Record
from ssm_tune.reporting import figure_data
from ssm_tune.reporting.figure_data import Series
from ssm_tune.reporting.palette import looks
from ssm_tune.reporting.render import text_table
from ssm_tune.reporting.table import BASE, Table
from ssm_tune.utils.files import read_jsonl
from ssm_tune.utils.text import printable

WIDTH, HEIGHT, LEFT, BOTTOM = 300, 190, 42, 24
"""Of a drawing and of the room for its labels, in CSS pixels."""

STYLE = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1b1b1b; --soft: #666; --line: #d5d5d5; --best: #e4f1e4;
}
.row { stroke: var(--light); }
@media (prefers-color-scheme: dark) { :root { --bg: #161616; --fg: #e8e8e8; --soft: #a3a3a3; --line: #3d3d3d;
  --best: #1e3a26; }
  .row { stroke: var(--dark); } }
body { background: var(--bg); color: var(--fg); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, .predictions th, .predictions td { text-align: left; }
.predictions td { white-space: normal; vertical-align: top;
  min-width: 9rem; } td.best { background: var(--best); font-weight: 600; } .soft, caption { color: var(--soft); }
caption { text-align: left; padding: .3rem 0; } th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid currentColor; }
th[aria-sort=ascending] button::after { content: " \\25b2"; }
th[aria-sort=descending] button::after { content: " \\25bc"; }
.panels { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; } figcaption { font-weight: 600; }
svg text { fill: var(--soft); font-size: 10px; } svg .axis { stroke: var(--line); } svg polyline { fill: none;
  stroke-width: 1.6; } .key { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .6rem 0; }
.key svg { vertical-align: middle; margin-right: .3rem; }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("th")], body = table.tBodies[0];
  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => row.cells[place].dataset.value;
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const by = place ? x - y : x.localeCompare(y);
      return down ? -by : by;
    };
    [...body.rows].sort(order).forEach(row => body.append(row));
  }));
}
"""


def page(table: Table, folders: figure_data.Folders, examples: int) -> str:
    """The whole file. folders: of each record, by its id(). examples: how many predictions to show of each task.

    Raises UserError where a run's steps or predictions are missing or damaged.
    """
    title = _text(table.spec.title)
    parts = [f"<h1>{title}</h1>", _table(table), "<h2>Learning curves</h2>", _key(table)]
    parts += ["<h3>Training loss, nats per token, by optimizer step</h3>"]
    parts.append(_panels(table, figure_data.losses(table, folders)))
    parts.append("<h3>Score on the selection split, points, by optimizer step</h3>")
    parts.append(_panels(table, figure_data.scores(table)))
    parts += [
        "<h2>Predictions side by side</h2>",
        "<p class=soft>Of each method's first seed, at its best epoch. Runs keep outputs and ids, no data: "
        "<code>ssm-tune data show TASK</code> prints the examples.</p>",
        *_predictions(table, folders, examples),
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    shown = text_table(table)
    keys = _sort_keys(table, len(shown.heads))
    heads = "".join(
        f'<th scope="col"><button type="button">{_text(f"{column} {what}".strip())}</button></th>'
        for column, what in shown.heads
    )
    rows = []
    for line, numbers in zip(shown.lines, keys, strict=True):
        cells = "".join(
            f'<td data-value="{_text(key)}"{" class=best" if place in line.bold else ""}>{_text(text)}</td>'
            for place, (text, key) in enumerate(zip(line.cells, numbers, strict=True))
        )
        rows.append(f"<tr>{cells}</tr>")
    notes = "".join(f"<li>{_text(note)}</li>" for note in table.notes)
    return (
        '<div class="scroll"><table class="sortable"><caption>Press a heading to sort by it.</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div><ul class=soft>{notes}</ul>"
    )


def _sort_keys(table: Table, width: int) -> list[list[str]]:
    """What each cell is sorted by: whole numbers, not their print; empty where there is none."""
    found = []
    models = list(dict.fromkeys(head.column.model for head in table.heads))
    for row in table.rows:
        scores = [value for head in table.heads for value in row.values[head.column.name]]
        numbers = ["" if value.stat is None else repr(value.stat.mean) for value in scores]
        rank = ["" if row.rank is None else repr(row.rank)] if table.spec.average_rank else []
        shares = [repr(row.shares[model]) if model in row.shares else "" for model in models]
        whole = [row.label, *shares, *numbers, *rank]
        found.append(whole if len(whole) == width else [row.label, *numbers, *rank])  # a table may go without shares
    return found


def _key(table: Table) -> str:
    labels = [
        row.label for row in table.rows if any(table.picked.get((row.label, head.column.name)) for head in table.heads)
    ]
    items = [
        f'<span><svg width="26" height="10" aria-hidden="true"><path d="M0 5H26" stroke-width="2" '
        f"{_stroke(table, label)}/></svg>{_text(label)}</span>"
        for label in labels
    ]
    return f'<div class="key">{"".join(items)}</div>'


def _stroke(table: Table, label: str) -> str:
    look = looks([(row.label, row.method) for row in table.rows if row.method != BASE])[label]
    dashes = f' stroke-dasharray="{" ".join(map(str, look.dashes))}"' if look.dashes else ""
    return f'class="row" style="--light: {look.colour}; --dark: {look.dark}"{dashes}'


def _panels(table: Table, series: Sequence[Series]) -> str:
    names = list(dict.fromkeys(one.panel for one in series))
    drawn = [_panel(table, name, [one for one in series if one.panel == name]) for name in names]
    return f'<div class="panels">{"".join(drawn)}</div>'


def _panel(table: Table, name: str, series: Sequence[Series]) -> str:
    right = max(max(one.x) for one in series) or 1.0
    low, high = min(min(one.y) for one in series), max(max(one.y) for one in series)
    span = high - low or 1.0

    def at(x: float, y: float) -> str:
        across = LEFT + x / right * (WIDTH - LEFT - 8)
        return f"{across:.1f},{8 + (high - y) / span * (HEIGHT - BOTTOM - 16):.1f}"

    lines = []
    for one in series:
        places = [at(x, y) for x, y in zip(one.x, one.y, strict=True)]
        said = f"<title>{_text(one.label)}: {one.y[-1]:.3g} at step {one.x[-1]:.0f}</title>"
        lines.append(f'<polyline points="{" ".join(places)}" {_stroke(table, one.label)}>{said}</polyline>')
        if len(places) <= 3:
            lines += [
                f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3" {_stroke(table, one.label)} '
                'fill="var(--bg)"/>'
                for p in places
            ]
    floor = HEIGHT - BOTTOM
    ends = "; ".join(f"{one.label} ends at {one.y[-1]:.3g}" for one in series)
    return (
        f'<figure><figcaption>{_text(name)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="{_text(f"{name}: {ends}")}">'
        f'<line class="axis" x1="{LEFT}" y1="{floor}" x2="{WIDTH - 8}" y2="{floor}"/>'
        f'<line class="axis" x1="{LEFT}" y1="8" x2="{LEFT}" y2="{floor}"/>'
        f'<text x="{LEFT - 4}" y="14" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 4}" y="{floor - 2}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 8}">0</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 8}" text-anchor="end">{right:.0f} steps</text>'
        f"{''.join(lines)}</svg></figure>"
    )


def _predictions(table: Table, folders: figure_data.Folders, examples: int) -> list[str]:
    """For each task a table: examples down, the base model and the methods across."""
    found = []
    for task in dict.fromkeys(task for head in table.heads for task in head.column.tasks):
        columns: list[tuple[str, dict[str, str]]] = []
        for label, record in _first_seeds(table, task):
            folder = folders[id(record)]
            frozen = rows_path(folder, "predictions-frozen")
            if not columns and frozen.exists():
                columns.append(("base model", _outputs(read_jsonl(frozen))))
            columns.append((label, _outputs(read_jsonl(rows_path(folder, "predictions")))))
        if not columns:
            continue
        ids = list(dict.fromkeys(name for _, outputs in columns for name in outputs))[:examples]
        heads = "".join(f'<th scope="col">{_text(label)}</th>' for label, _ in columns)
        rows = "".join(
            f'<tr><th scope="row">{_text(name)}</th>'
            + "".join(
                f"<td>{_text(outputs.get(name, '-')) or '<span class=soft>(empty)</span>'}</td>"
                for _, outputs in columns
            )
            + "</tr>"
            for name in ids
        )
        found.append(
            f'<h3>{_text(task)}</h3><div class="scroll"><table class="predictions"><thead><tr>'
            f'<th scope="col">example</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        )
    return found


def _first_seeds(table: Table, task: str) -> list[tuple[str, Record]]:
    found: dict[str, Record] = {}
    for (label, _), records in table.picked.items():
        for record in records:
            if record["cell"]["task"] == task and record["metrics"]["best"] is not None:
                found.setdefault(label, record)
    return list(found.items())


def _outputs(rows: Sequence[dict[str, object]]) -> dict[str, str]:
    return {str(row.get("id")): str(row.get("output", "")) for row in rows}


def _text(text: str) -> str:
    """HTML that shows the text as it is; its line ends stay."""
    return escape("\n".join(map(printable, text.split("\n"))))
