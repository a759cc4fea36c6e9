"""One picture of the runs so far: a run's learning curve, and score against trainable parameters."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssm_tune.metrics.names import heading
from ssm_tune.records.record import rows_path
from ssm_tune.records.schema import Record
from ssm_tune.reporting.run_tables import Row, rows_for_table, table_key
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write, read_jsonl

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "pdf", "svg")
SIZE = (12.0, 5.0)  # inches, at 100 dots each
# Okabe and Ito's colours, told apart by every kind of colour vision; with a marker each, in grey print too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*Xph"
LOSS, SCORE, FROZEN = "#0072B2", "#D55E00", "#555555"
SMOOTHED_POINTS = 50


def draw(run: Path, record: Record, records: Sequence[Record], path: Path) -> Path:
    """Write the learning curve of the run folder ``run`` and, beside it, the scores of ``records``.

    records: runs of the same table (tables.table_key) as ``record``; ``record`` is the one of ``run``.

    Raises:
        UserError: a suffix other than FORMATS, the steps missing or damaged, or ``path`` not writable.
    """
    check_format(path)
    steps = read_jsonl(rows_path(run, "steps"))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # without pyplot: no window system is looked for and no global state is left
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.25))
    loss = figure.add_subplot(grid[0, 0])
    score = figure.add_subplot(grid[1, 0], sharex=loss)
    _loss(loss, record, steps)
    _score(score, record)
    score_against_parameters(figure.add_subplot(grid[:, 1]), records)
    key = table_key(record)
    figure.suptitle(f"{key.task} on {key.data}, {key.model}, {key.protocol} protocol", fontsize=12)
    image = io.BytesIO()
    figure.savefig(image, format=path.suffix[1:].lower(), dpi=100)
    return atomic_write(path, [image.getvalue()])


def check_format(path: Path) -> None:
    """Raises UserError unless the suffix names a format that can be drawn."""
    if path.suffix[1:].lower() not in FORMATS:
        raise UserError(f"{path}: a figure's name must end in {', '.join('.' + name for name in FORMATS)}")


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """Running mean over the last ``width`` values (fewer at the start); same length."""
    means = []
    for end in range(1, len(values) + 1):
        window = values[max(0, end - width) : end]
        means.append(sum(window) / len(window))
    return means


def _loss(axes: Axes, record: Record, steps: list[dict[str, Any]]) -> None:
    """Training loss by optimizer step. A loss that was not finite stands as null in the file: a gap here."""
    finite = [(row["step"], row["loss"]) for row in steps if row.get("loss") is not None]
    xs, losses = [step for step, _ in finite], [loss for _, loss in finite]
    width = max(1, len(losses) // SMOOTHED_POINTS)
    axes.plot(xs, losses, color=LOSS, alpha=0.2, linewidth=0.8)
    axes.plot(xs, smoothed(losses, width), color=LOSS, label=f"mean of {width} steps" if width > 1 else "each step")
    axes.set_ylabel("training loss\n(nats per token)")
    cell = record["cell"]
    axes.set_title(f"{cell['method']}, seed {cell['seed']}", fontsize=11)
    axes.tick_params(labelbottom=False)
    _finish(axes)


def _score(axes: Axes, record: Record) -> None:
    """The primary metric by epoch on the selection split; frozen and best on the report split."""
    primary, metrics = record["primary_metric"], record["metrics"]
    report = record["splits"]["report"]
    epochs = [one for one in metrics["epochs"] if primary in one["selection"]]
    axes.plot(
        [one["step"] for one in epochs],
        [100 * one["selection"][primary] for one in epochs],
        color=SCORE,
        marker="o",
        label=f"tuned, {record['splits']['selection']}",
    )
    if metrics["best"] is not None:
        best = metrics["best"]
        axes.plot(
            [best["step"]],
            [100 * best["report"][primary]],
            color=SCORE,
            marker="*",
            markersize=13,
            markeredgecolor="black",
            linestyle="none",
            label=f"best epoch, {report}",
        )
    _frozen_line(axes, record, (0, record["steps"]))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(f"{heading(primary)}\n(points)")
    axes.set_xlim(left=0)
    _finish(axes, legend="below")


def _frozen_line(axes: Axes, record: Record, ends: tuple[float, float]) -> None:
    """A line between two abscissae (not axhline, which the search for the legend's best place passes over)."""
    frozen = record["metrics"]["frozen"]
    if frozen is not None:
        value = 100 * frozen["values"][record["primary_metric"]]
        label = f"frozen, {frozen['split']}"
        axes.plot(ends, [value, value], color=FROZEN, linestyle="--", linewidth=1.2, label=label)


def score_against_parameters(axes: Axes, records: Sequence[Record]) -> None:
    """One point for each row of the table of ``records``: mean over seeds, bar of one standard deviation."""
    primary = records[0]["primary_metric"]
    rows = [row for row in rows_for_table(records) if row.status == "completed" and primary in row.values]
    for index, row in enumerate(rows):
        _point(axes, row, primary, COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.12)
    ends = axes.get_xlim()
    for record in [record for record in records if record["metrics"]["frozen"] is not None][:1]:
        _frozen_line(axes, record, ends)
    axes.set_xlim(ends)
    axes.set_xlabel("trainable parameters")
    axes.set_ylabel(f"{heading(primary)}, {records[0]['splits']['report']} split (points)")
    axes.set_title("score against trainable parameters", fontsize=11)
    _finish(axes, legend="beside" if len(rows) > 3 else "inside")


def _point(axes: Axes, row: Row, primary: str, colour: str, marker: str) -> None:
    stat = row.values[primary]
    axes.errorbar(
        [row.trainable],
        [100 * stat.mean],
        yerr=None if stat.sd is None else [100 * stat.sd],
        color=colour,
        marker=marker,
        markersize=9,
        capsize=4,
        linestyle="none",
        label=row.label if stat.n == 1 else f"{row.label} (n={stat.n}, ± sd)",
    )


def _finish(axes: Axes, legend: str = "inside") -> None:
    """legend: "inside" at the emptiest place, or "below" or "beside" the axes, where it can cover nothing."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if legend == "beside":
        axes.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    elif legend == "below":
        anchor = (0.5, -0.28)
        axes.legend(fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=anchor, ncols=3, columnspacing=1.2)
    else:
        axes.legend(fontsize=9, loc="best", framealpha=0.85)
