"""A finished run in a few lines."""

from __future__ import annotations

from typing import Any

from ssm_tune.metrics.names import among_labels, heading
from ssm_tune.utils.phases import PHASES


def summary(record: Any) -> str:
    """Frozen and tuned scores, trainable share and time of a completed record, for a terminal."""
    metrics, parameters = record["metrics"], record["parameters"]
    names = [*record["headline"]]
    if (own := among_labels(record["primary_metric"])) in metrics["best"]["report"]:  # older records lack it
        names.append(own)
    split = record["splits"]["report"]
    lines = [f"{'scores on ' + split:<26}" + "".join(f"{heading(name):>{_width(name)}}" for name in names)]
    if metrics["frozen"]:
        lines.append(_row("base model", metrics["frozen"]["values"], names))
    cell = record["cell"]
    lines.append(_row(f"{cell['method']}, epoch {metrics['best']['epoch']}", metrics["best"]["report"], names))
    if metrics["last"]["epoch"] != metrics["best"]["epoch"]:
        lines.append(_row(f"  last epoch ({metrics['last']['epoch']})", metrics["last"]["report"], names))
    lines.append(
        f"trained {parameters['trainable']:,} of {parameters['total']:,} parameters ({parameters['share']:.3%}); "
        f"{record['seconds']['total']:.1f} s: {times(record['seconds'])}"
    )
    return "\n".join(lines)


def times(seconds: dict[str, float | None]) -> str:
    """Where a record's time went: its phases that took a tenth of a second at least, in their order."""
    spent = {name: seconds.get(name) or 0.0 for name in PHASES}
    return ", ".join(f"{name} {one:.1f}" for name, one in spent.items() if one >= 0.05)


def _row(label: str, values: dict[str, float], names: list[str]) -> str:
    return f"{label:<26}" + "".join(f"{100 * values[name]:>{_width(name)}.2f}" for name in names)


def _width(name: str) -> int:
    return max(12, len(heading(name)) + 2)
