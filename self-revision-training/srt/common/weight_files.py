"""The content of weight files: their hash, whether they hold NaN, and whether all are there. Read once, then
remembered in the user's cache.

A file that only moved, was touched or was copied has the same hash. Remembered are large files, by inode, size and
times of change; a cache that cannot be read or written only costs time.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from srt.common.errors import UserError
from srt.common.files import atomic_write

WEIGHT_SUFFIXES = (".safetensors", ".bin")
INDEX = "model.safetensors.index.json"  # of weights in several files
REMEMBERED_FROM = 64 * 2**20  # bytes; smaller files are read again
REMEMBERED_FILES = 2000


@dataclass(frozen=True)
class WeightFile:
    """`nan_in`: the name of a tensor with a NaN in it, if there is one; only known of safetensors."""

    sha256: str
    nan_in: str | None


def inspect_weights(paths: Iterable[Path]) -> dict[Path, WeightFile]:
    """The content of each file, in parallel. Raises OSError for a file that cannot be read."""
    paths = list(paths)
    cache_path = _cache_path()
    cache = _read_cache(cache_path)
    found: dict[Path, WeightFile] = {}
    for path in paths:
        if (remembered := cache.get(_key(path))) is not None:
            found[path] = remembered
    missing = [path for path in paths if path not in found]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        found |= dict(zip(missing, pool.map(_inspect, missing), strict=True))
    large = {_key(path): found[path] for path in missing if path.stat().st_size >= REMEMBERED_FROM}
    if large:
        _write_cache(cache_path, _read_cache(cache_path) | large)
    return found


def check_weight_files(model_path: str) -> None:
    """Raises UserError for a folder without weights, or without some that its index names."""
    if Path(model_path).is_dir() and (missing := _missing_weights(Path(model_path))):
        raise UserError(f"{model_path}: {missing}; copy or download the checkpoint again")


def _missing_weights(folder: Path) -> str | None:
    if not any(path.suffix in WEIGHT_SUFFIXES for path in folder.iterdir()):
        return f"a checkpoint without weights (no {' or '.join(WEIGHT_SUFFIXES)} file)"
    index = folder / INDEX
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return None
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # loading the model says so
        return None
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return None
    return f"{len(missing)} of {len(names)} weight files are missing (the first: {missing[0]})"


def _inspect(path: Path) -> WeightFile:
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return WeightFile(sha256, _tensor_with_nan(path) if path.suffix == ".safetensors" else None)


def _tensor_with_nan(path: Path) -> str | None:
    import torch
    from safetensors import SafetensorError, safe_open

    checked = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                tensor = file.get_tensor(name)
                if tensor.dtype in checked and bool(tensor.isnan().any()):
                    return name
    except SafetensorError:  # loading the model says so
        return None
    return None


def _key(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def _cache_path() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "sd_zero" / "weight_files.json"


def _read_cache(path: Path) -> dict[str, WeightFile]:
    try:
        return {key: WeightFile(**value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_cache(path: Path, cache: dict[str, WeightFile]) -> None:
    newest = list(cache.items())[-REMEMBERED_FILES:]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({key: asdict(value) for key, value in newest}), encoding="utf-8")
    except Exception:  # noqa: BLE001, S110 - the next run reads the files again
        pass
