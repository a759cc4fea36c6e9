"""Every feature on every model does what the table in docs/peft.md says."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.peft_features import FEATURES
from helpers.peft_models import CONFIGS

ROOT = Path(__file__).parents[2]
SLOW = ("torch.compile", "generate")


def documented() -> dict[tuple[str, str], str]:
    """The table's cells, by feature and model."""
    lines = (ROOT / "docs" / "peft.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    head = next(row for row in rows if row[1:] == list(CONFIGS))
    return {
        (row[0], model): cell
        for row in rows
        if row[0] in FEATURES and len(row) == len(head)
        for model, cell in zip(head[1:], row[1:], strict=True)
    }


@pytest.mark.parametrize("model", CONFIGS)
@pytest.mark.parametrize(
    "feature", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in FEATURES]
)
def test_a_feature_is_as_documented(feature: str, model: str) -> None:
    assert FEATURES[feature](model) == documented()[feature, model]


@pytest.mark.parametrize("package", ["transformers", "peft"])
def test_the_documented_versions_are_the_tested_ones(package: str) -> None:
    pinned = next(
        line.split("==")[1]
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"{package}==")
    )
    assert f"{package} {pinned}" in (ROOT / "docs" / "peft.md").read_text(encoding="utf-8")
