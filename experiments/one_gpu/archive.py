"""Results without models, to continue an experiment on another machine."""

import tarfile
from pathlib import Path

from srt.common.errors import UserError

LARGE = (".safetensors", ".pt", ".bin")
KEPT_MEGABYTES = 64  # of one file


def export_results(output: Path, file: Path) -> None:
    """Pack everything under `output` except weights, optimizer states and tokenizers."""
    if not output.is_dir():
        raise UserError(f"{output}: there are no results yet")
    with tarfile.open(file, "w:gz") as archive:
        for path in sorted(output.rglob("*")):
            if path.is_file() and _is_small(path):
                archive.add(path, path.relative_to(output))
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


def import_results(file: Path, output: Path) -> None:
    """Unpack an export; raises UserError when `output` holds results already."""
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} is not empty: import into a folder of its own, or remove it first")
    output.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file) as archive:
        archive.extractall(output, filter="data")
    print(f"{output}: {sum(path.is_file() for path in output.rglob('*'))} files")


def _is_small(path: Path) -> bool:
    in_model = {"student", "stage1", "stage2", "model"} & set(path.parts[:-1])
    return (
        path.suffix not in LARGE
        and path.stat().st_size < KEPT_MEGABYTES * 2**20
        and (not in_model or path.name in ("training_log.json", "sd_zero.json"))
        and not any(part.endswith(".work") or part == "checkpoints" for part in path.parts)
    )
