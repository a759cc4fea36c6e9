"""One picture of a run: its learning curve, beside the scores of all runs like it against trainable parameters."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssm_tune.metrics.names import heading
from ssm_tune.records.record import rows_path
from ssm_tune.records.schema import Record
from ssm_tune.reporting import figure_data, table_figures
from ssm_tune.reporting.palette import BASE_COLOUR, method_colours
from ssm_tune.reporting.table import BASE, Table
from ssm_tune.reporting.table_figures import drawable
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write, read_jsonl

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "pdf", "svg")
SIZE = (12.0, 5.0)
"""Inches, of 100 dots each."""
SMOOTHED_POINTS = 50


def draw(run: Path, record: Record, table: Table, path: Path) -> Path:
    """Write the picture. run: the folder of ``record``; table: the one of run_tables.py that the record belongs to.

    Raises:
        UserError: a suffix other than FORMATS, the steps missing or damaged, or ``path`` not writable.
    """
    check_format(path)
    steps = read_jsonl(rows_path(run, "steps"))
    from matplotlib.figure import Figure

    with table_figures.defaults():
        # without pyplot: no window system is looked for and no global state is left
        figure = Figure(figsize=SIZE, layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.25))
        loss = figure.add_subplot(grid[0, 0])
        score = figure.add_subplot(grid[1, 0], sharex=loss)
        _loss(loss, record, steps)
        _score(score, record)
        tuned = sum(row.method != BASE for row in table.rows)
        (_parameters if tuned > 1 else _gain)(figure.add_subplot(grid[:, 1]), record, table)
        figure.suptitle(drawable(table.spec.title), fontsize=12)
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


def _loss(ax: Axes, record: Record, steps: list[dict[str, Any]]) -> None:
    """Training loss by optimizer step. A loss that was not finite stands as null in the file: a gap here."""
    run = record["cell"]
    colour = method_colours(run["method"])[0]
    finite = [(row["step"], row["loss"]) for row in steps if row.get("loss") is not None]
    xs, losses = [step for step, _ in finite], [loss for _, loss in finite]
    width = max(1, len(losses) // SMOOTHED_POINTS)
    ax.plot(xs, losses, color=colour, alpha=0.2, linewidth=0.8)
    ax.plot(xs, smoothed(losses, width), color=colour, label=f"mean of {width} steps" if width > 1 else "each step")
    ax.set_ylabel("training loss\n(nats per token)")
    ax.set_title(drawable(f"{run['method']}, seed {run['seed']}"), fontsize=11)
    ax.tick_params(labelbottom=False)
    table_figures.plain(ax)
    ax.legend(fontsize=9, loc="best", framealpha=0.85)


def _score(ax: Axes, record: Record) -> None:
    """The primary metric by epoch on the selection split; base model and best epoch on the reported split."""
    primary, metrics, splits = record["primary_metric"], record["metrics"], record["splits"]
    colour = method_colours(record["cell"]["method"])[0]
    epochs = [one for one in metrics["epochs"] if primary in one["selection"]]
    xs, ys = [one["step"] for one in epochs], [100 * one["selection"][primary] for one in epochs]
    ax.plot(xs, ys, color=colour, marker="o", label=drawable(f"tuned, {splits['selection']}"))
    if metrics["best"] is not None:
        best = metrics["best"]["step"], 100 * metrics["best"]["report"][primary]
        label = drawable(f"best epoch, {splits['report']}")
        # behind the dots and hollow: it often stands on the last one
        ax.plot(*best, "*", color="white", markersize=17, markeredgecolor="black", label=label, zorder=1.5)
    if metrics["frozen"] is not None:
        value = 100 * metrics["frozen"]["values"][primary]
        label = drawable(f"base model, {metrics['frozen']['split']}")
        ax.axhline(value, color=BASE_COLOUR, linestyle="--", linewidth=1.2, label=label)
    ax.set_xlabel("optimizer step")
    ax.set_ylabel(f"{drawable(heading(primary))}\n(points)")
    ax.set_xlim(left=0)
    table_figures.plain(ax)
    # below the axes, where it covers nothing
    ax.legend(fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=3, columnspacing=1.2)


def _gain(ax: Axes, record: Record, table: Table) -> None:
    """The only method there is, beside the base model: a bar each for every metric that the task leads with."""
    names = [name for name in table.heads[0].show if name in record["headline"]]
    colours = {BASE: BASE_COLOUR, record["cell"]["method"]: method_colours(record["cell"]["method"])[0]}
    width = 0.8 / len(table.rows)
    for number, row in enumerate(table.rows):
        values = [row.values[""][table.heads[0].show.index(name)].stat for name in names]
        heights = [100 * value.mean if value else 0.0 for value in values]
        places = [place + (number - (len(table.rows) - 1) / 2) * width for place in range(len(names))]
        bars = ax.bar(places, heights, width, color=colours[row.method], label=drawable(row.label))
        ax.bar_label(bars, [f"{height:.1f}" for height in heights], fontsize=9, padding=2)
    ax.set_xticks(range(len(names)), [drawable(heading(name)) for name in names])
    ax.set_ylabel(drawable(f"{record['splits']['report']} split (points)"))
    ax.set_title("scores, base model and tuned", fontsize=11)
    table_figures.plain(ax)
    ax.tick_params(axis="x", labelsize=9)
    ax.legend(fontsize=9, frameon=False, loc="best")


def _parameters(ax: Axes, record: Record, table: Table) -> None:
    """Each row of the table: mean over seeds, bar of one standard deviation."""
    series = figure_data.parameters(table)
    table_figures.parameters(ax, table, "", series)
    ax.set_xlabel("trainable parameters")
    ax.set_ylabel(drawable(f"{heading(record['primary_metric'])}, {record['splits']['report']} split (points)"))
    ax.set_title("score against trainable parameters, mean ± sd over seeds", fontsize=11)
    table_figures.plain(ax)
    beside = len(series) > 3
    anchor = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if beside else {"loc": "best"}
    ax.legend(fontsize=9, frameon=not beside, **anchor)
