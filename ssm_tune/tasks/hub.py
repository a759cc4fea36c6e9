"""Data sets from the Hugging Face hub, with errors a user can act on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ssm_tune.errors import UserError

OFFLINE = "to run offline use data=sample model=tiny, or data=local data.path=DIR"


def load_split(repo: str, revision: str | None, split: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """All rows of one split of a data set on the hub, in its order.

    Raises UserError where the hub or the data set cannot be reached, or a column is missing.
    """
    import datasets  # slow to import, and not needed for local and generated data
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # retries are told by the one line below
    try:
        table = datasets.load_dataset(repo, revision=revision, split=split)
    except (OSError, HfHubHTTPError, OfflineModeIsEnabled, datasets.exceptions.DatasetsError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the data set {repo} could not be had from the hub ({cause}); {OFFLINE}") from error
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise UserError(f"the data set {repo} has no column {missing[0]!r}: it holds {', '.join(table.column_names)}")
    return table.to_list()
