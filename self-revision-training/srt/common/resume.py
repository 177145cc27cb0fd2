"""Whether a checkpoint to resume from is whole, so that a damaged one gives way to the one before it."""

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

from srt.common.errors import UserError, reason_of

SIZES = "sizes.json"  # file -> bytes; written after all others, so that what was cut off is noticed


def write_sizes(folder: Path) -> None:
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in _files(folder)}
    (folder / SIZES).write_text(json.dumps(sizes, indent=1), encoding="utf-8")


def why_damaged(folder: Path) -> str | None:
    """The first file that is missing, cut off or cannot be opened, and why; None for a whole checkpoint.

    Opens files without reading all of their content: gigabytes. Checkpoints of earlier versions have no sizes.
    """
    try:
        sizes = json.loads((folder / SIZES).read_text(encoding="utf-8")) if (folder / SIZES).exists() else {}
        for name, expected in sizes.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if (actual := path.stat().st_size) != expected:
                return f"{name} has {actual:,} bytes instead of {expected:,}"
    except (OSError, ValueError, AttributeError) as error:
        return f"{SIZES}: {error}"
    for path in _files(folder):
        if reason := _why_unreadable(path):
            return f"{path.relative_to(folder)}: {reason}"
    return None


def load_state(path: Path, device: Any = "cpu") -> Any:
    """What torch.save wrote. Raises UserError for a file that is damaged inside."""
    import torch

    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, KeyError) as error:
        raise UserError(
            f"{path}: damaged ({reason_of(error)}); delete {path.parent} to continue from an earlier checkpoint"
        ) from error


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that it is not found again; returns its new path."""
    aside, number = folder.with_name(f"damaged_{folder.name}"), 2
    while aside.exists():
        aside, number = folder.with_name(f"damaged_{folder.name}_{number}"), number + 1
    os.replace(folder, aside)
    return aside


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SIZES]


def _why_unreadable(path: Path) -> str | None:
    try:
        if path.suffix == ".json":
            if not isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
                return "expected a JSON object"
        elif path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt"):
                pass
        elif path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):  # as torch.save writes
            return "cut off or overwritten"
    except Exception as error:  # each reader has errors of its own
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None
