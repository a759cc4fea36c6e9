"""Tables as files for other programs: LaTeX with booktabs' rules, and CSV with whole numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from ssm_tune.records.schema import Record
from ssm_tune.reporting.grid import Grid
from ssm_tune.reporting.render import Sheet


def latex(sheet: Sheet) -> str:
    """A tabular with booktabs' rules; the notes stand in comments; ends with a newline."""
    upper, spans, at = [], [], 0
    while at < len(sheet.heads):
        column, end = sheet.heads[at][0], at + 1
        while column and end < len(sheet.heads) and sheet.heads[end][0] == column:
            end += 1
        upper.append(rf"\multicolumn{{{end - at}}}{{c}}{{{_tex(column)}}}" if column else "")
        spans += [rf"\cmidrule(lr){{{at + 1}-{end}}}"] if column else []
        at = end
    lines = [f"% {sheet.title}", *(f"% {note}" for note in sheet.notes)]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(sheet.heads) - 1)}}}", r"\toprule"]
    lines += [" & ".join(upper) + r" \\", " ".join(spans)] if spans else []
    lines += [" & ".join(_tex(what) for _, what in sheet.heads) + r" \\", r"\midrule"]
    group = sheet.lines[0].group if sheet.lines else ""
    for line in sheet.lines:
        if line.group != group:
            lines.append(r"\midrule")
            group = line.group
        cells = [rf"\textbf{{{_tex(c)}}}" if i in line.bold else _tex(c) for i, c in enumerate(line.cells)]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


CSV_HEAD = ("table", "group", "row", "method", "options", "column", "tasks", "model", "data", "protocol", "shows",
            "mean", "sd", "n", "seeds", "diverged_seeds", "selected_on_report", "average_rank")  # fmt: skip


def comma_separated(grid: Grid) -> str:
    """One line a number, whole: scores are fractions here, as in the records."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for row in grid.rows:
        options = " ".join(f"{name}={value}" for name, value in row.options.items())
        for head in grid.heads:
            column = head.column
            for what, value in zip(head.show, row.values[column.name], strict=True):
                numbers = [value.stat.mean, value.stat.sd, len(value.seeds) or 1] if value.stat else ["", "", 0]
                writer.writerow([
                    grid.layout.name, row.group, row.label, row.method, options, column.name, " ".join(column.tasks),
                    column.model, column.data, grid.layout.protocol_of(column), what, *map(_number, numbers),
                    " ".join(map(str, value.seeds)), " ".join(map(str, value.diverged)),
                    "yes" if value.flattered else "no", "" if row.rank is None else repr(row.rank),
                ])  # fmt: skip
    return text.getvalue()


def records_csv(records: Iterable[Record]) -> str:
    """One line a record and metric on the reported split at the best epoch, for other tools."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "data", "model", "protocol", "method", "options", "seed", "status", "metric", "value"])
    for record in records:
        cell, best = record["cell"], record["metrics"]["best"]
        options = " ".join(f"{name}={value}" for name, value in sorted(cell["method_options"].items()))
        place = [cell["task"], cell["data"], cell["model"], cell["protocol"], cell["method"], options, cell["seed"]]
        for metric, value in sorted(best["report"].items()) if best else [("", "")]:
            writer.writerow([*place, record["status"], metric, _number(value)])
    return text.getvalue()


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c) or (f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def _number(value: object) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)
