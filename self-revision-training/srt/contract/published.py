"""The index of a published checkpoint: which files belong to it, so that a damaged copy is noticed.

`sd_zero.json` holds it under "files": name -> {"bytes": size, "sha256": hash of a weight file}. Configs and
templates may be edited by hand; they must only be there. Weights must be what was exported.
"""

from pathlib import Path
from typing import Any

from srt.common.errors import UserError
from srt.common.weight_files import WEIGHT_SUFFIXES, WeightFile, inspect_weights

FILES = "files"  # in sd_zero.json


def index_files(folder: Path) -> dict[str, dict[str, Any]]:
    """All files of a finished checkpoint but the index itself."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    weights = inspect_weights(path for path in paths if path.suffix in WEIGHT_SUFFIXES)
    return {
        path.name: {"bytes": path.stat().st_size} | ({"sha256": weights[path].sha256} if path in weights else {})
        for path in paths
    }


def check_files(folder: Path, metadata: dict[str, Any]) -> None:
    """Raises UserError when a file of the index is missing, or weights have another size. Reads no content."""
    index = metadata.get(FILES, {})
    if not isinstance(index, dict):
        raise UserError(f"{folder}: the index of files in its sd_zero.json is damaged; copy the checkpoint again")
    for name, entry in index.items():
        path = folder / name
        if not path.is_file():
            raise damaged(folder, f"{name} is missing")
        actual, expected = path.stat().st_size, entry["bytes"]
        if path.suffix in WEIGHT_SUFFIXES and actual != expected:
            raise damaged(folder, f"{name} has {actual:,} bytes instead of {expected:,}")


def check_content(folder: Path, metadata: dict[str, Any], weights: dict[Path, WeightFile]) -> None:
    """Raises UserError when weights are not those that were exported."""
    for name, entry in metadata.get(FILES, {}).items():
        weight_file = weights.get(folder / name)
        if weight_file and weight_file.sha256 != entry.get("sha256", weight_file.sha256):
            raise damaged(folder, f"{name} has another content")


def damaged(folder: Path, what: str) -> UserError:
    return UserError(
        f"{folder} is not as it was written: {what} (by the index in its sd_zero.json); restore it, or delete the "
        "folder and make it again"
    )
