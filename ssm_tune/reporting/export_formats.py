"""Tables as files for other programs: LaTeX with booktabs' rules, and CSV with whole numbers."""

from __future__ import annotations

from collections.abc import Iterable

from ssm_tune.records.schema import Record
from ssm_tune.reporting.escape import csv_text, tex_text
from ssm_tune.reporting.render import TextTable
from ssm_tune.reporting.table import Table

TABLE_HEAD = (
    *("table", "group", "row", "method", "options", "column", "tasks", "model", "data", "protocol", "shows"),
    *("mean", "sd", "n", "seeds", "diverged_seeds", "selected_on_report", "average_rank"),
)
SUMMARY_COLUMN = "summary"
"""What stands for a column where a number is of the whole row."""
RECORDS_HEAD = ("task", "data", "model", "protocol", "method", "options", "seed", "status", "metric", "value")


def latex(table: TextTable) -> str:
    """A tabular with booktabs' rules; the notes stand in comments; ends with a newline."""
    upper, spans, at = [], [], 0
    while at < len(table.heads):
        column, end = table.heads[at][0], at + 1
        while column and end < len(table.heads) and table.heads[end][0] == column:
            end += 1
        upper.append(rf"\multicolumn{{{end - at}}}{{c}}{{{tex_text(column)}}}" if column else "")
        spans += [rf"\cmidrule(lr){{{at + 1}-{end}}}"] if column else []
        at = end
    lines = [f"% {table.title}", *(f"% {note}" for note in table.notes)]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(table.heads) - 1)}}}", r"\toprule"]
    lines += [" & ".join(upper) + r" \\", " ".join(spans)] if spans else []
    lines += [" & ".join(tex_text(what) for _, what in table.heads) + r" \\", r"\midrule"]
    group = table.lines[0].group if table.lines else ""
    for line in table.lines:
        if line.group != group:
            lines.append(r"\midrule")
            group = line.group
        cells = [rf"\textbf{{{tex_text(c)}}}" if i in line.bold else tex_text(c) for i, c in enumerate(line.cells)]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def table_csv(table: Table) -> str:
    """One line a number, whole: scores are fractions here, as in the records."""
    lines: list[list[object]] = []
    for row in table.rows:
        options = " ".join(f"{name}={value}" for name, value in row.options.items())
        for head in table.heads:
            column = head.column
            place = [table.spec.name, row.group, row.label, row.method, options, column.name, " ".join(column.tasks)]
            place += [column.model, column.data, table.spec.protocol_of(column)]
            for what, value in zip(head.show, row.values[column.name], strict=True):
                one = value.stat
                numbers = [one.mean, one.sd, len(value.seeds) or 1] if one else [None, None, 0]
                seeds = [" ".join(map(str, value.seeds)), " ".join(map(str, value.diverged))]
                lines.append([*place, what, *numbers, *seeds, "yes" if value.flattered else "no", row.rank])
        place = [table.spec.name, row.group, row.label, row.method, options, SUMMARY_COLUMN, "", "", "", ""]
        for what, number in row.summary.items():
            lines.append([*place, what, number, None, None, "", "", "no", row.rank])
        for name, edge in zip(("rank_low", "rank_high"), row.rank_interval or (), strict=False):
            lines.append([*place, name, edge, None, None, "", "", "no", row.rank])
    return csv_text(TABLE_HEAD, lines)


def records_csv(records: Iterable[Record]) -> str:
    """One line a record and metric on the reported split at the best epoch, for other tools."""
    lines: list[list[object]] = []
    for record in records:
        run, best = record["cell"], record["metrics"]["best"]
        options = " ".join(f"{name}={value}" for name, value in sorted(run["method_options"].items()))
        place = [run["task"], run["data"], run["model"], run["protocol"], run["method"], options, run["seed"]]
        for metric, value in sorted(best["report"].items()) if best else [("", None)]:
            lines.append([*place, record["status"], metric, value])
    return csv_text(RECORDS_HEAD, lines)
