"""One name, one checkpoint: results that go by a model's name were all made with the same weights."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from ssm_tune.experiment.setup import Prepared
from ssm_tune.records.record import RECORD_NAME
from ssm_tune.records.trial import TRIAL_NAME
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import decode_json, read_bytes


def check_model(prepared: Prepared) -> None:
    """Raise UserError where the results folder has a run of another checkpoint or tokenizer under this model's name.

    It looks at one such run: that one was held against those before it. Checkpoint folders alone change unnoticed;
    a hub's have revisions, an embedded model comes with the package.
    """
    section, output = prepared.config.model, Path(prepared.config.output_dir)
    if section["source"] != "folder":
        return
    paths = chain((output / "runs").rglob(RECORD_NAME), (output / "trials").rglob(TRIAL_NAME))
    for path in paths:
        try:
            run = decode_json(read_bytes(path))
            name, hashes = run["cell"]["model"], run["hashes"]
        except (UserError, ValueError, KeyError, TypeError):
            continue  # damaged: whoever reads all records says so
        if name != prepared.model_name:
            continue
        for what, part in (("checkpoint", "model"), ("tokenizer", "tokenizer")):
            if hashes[part] not in (None, prepared.hashes[part]):
                raise UserError(
                    f"model.path={section['path']}: the {what} of {name} has changed: {path.parent} ran with "
                    f"{str(hashes[part])[:12]}, this is {str(prepared.hashes[part])[:12]}; call it by another name "
                    "(model.name=NAME), or keep its results apart (output_dir=DIR)"
                )
        return
