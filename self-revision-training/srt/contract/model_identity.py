"""Which model a path names, by content: a copy, a relative path, a trailing slash or a `touch` change nothing.

model_identity(path)             for the identity of a run (provenance.open_run)
folder_name(path, settings)      a default output folder that no other model and no other settings share
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srt.common.errors import UserError, reason_of
from srt.common.weight_files import WEIGHT_SUFFIXES, inspect_weights
from srt.contract.provenance import CHECKPOINT_METADATA, fingerprint, read_metadata
from srt.contract.published import check_content

OTHER_SUFFIXES = (".json", ".jinja", ".model", ".txt")  # configs, tokenizer, chat template
# They say how a model was made, not what it computes.
RECORDS = (CHECKPOINT_METADATA, "training_log.json", "trainer_state.json", "run.json")
PARTS_OF_RUNS = ("stage1", "stage2", "student")  # names that say little without the folder above


def model_identity(model_path: str) -> str:
    """Equal for folders that hold the same model; a hub id is its own identity.

    Reads all weights when it sees them for the first time. Raises UserError for weights that cannot be read or
    that hold NaN.
    """
    folder = Path(model_path)
    if not folder.is_dir():
        return model_path
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in RECORDS)
    try:
        weights = inspect_weights(path for path in files if path.suffix in WEIGHT_SUFFIXES)
        others = {path: fingerprint(path.read_bytes()) for path in files if path.suffix in OTHER_SUFFIXES}
    except OSError as error:
        raise UserError(f"{model_path}: cannot be read ({reason_of(error)})") from error
    check_content(folder, read_metadata(model_path) or {}, weights)
    for path, weight_file in weights.items():
        if weight_file.nan_in:
            raise UserError(f"{path}: its tensor {weight_file.nan_in} contains NaN, use another checkpoint")
    contents = others | {path: weight_file.sha256 for path, weight_file in weights.items()}
    return "content:" + fingerprint(*(f"{path.name} {contents[path]}" for path in sorted(contents)))


def folder_name(model_path: str, settings: Mapping[str, Any]) -> str:
    """<model>_<8 digits> of the model and the settings, for example little_stage2_1f03a9c4."""
    path = Path(model_path)
    path = path.resolve() if path.is_dir() else path
    name = f"{path.parent.name}_{path.name}" if path.name in PARTS_OF_RUNS else path.name
    digits = fingerprint(model_identity(model_path), json.dumps(settings, sort_keys=True, default=str))[:8]
    return f"{name}_{digits}"
