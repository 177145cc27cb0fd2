"""Results without models, to continue an experiment on another machine."""

import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from experiments.one_gpu.plan import WORLD, Job, Layout
from experiments.one_gpu.running import keep_aside, record_of
from srt.common.errors import UserError, reason_of
from srt.common.files import atomic_write

WEIGHTS = (".safetensors", ".pt", ".bin")
MODELS = ("student", "stage1", "stage2", "model")
KEPT_OF_MODELS = ("training_log.json", "sd_zero.json")


def export_results(output: Path, file: Path) -> None:
    """Pack everything under `output` except weights, optimizer states and tokenizers of models that jobs made."""
    if not output.is_dir():
        raise UserError(f"{output}: there are no results yet")
    paths = [path for path in sorted(output.rglob("*")) if path.is_file() and _travels(path.relative_to(output))]
    with atomic_write(file, "the path after --export") as temporary, tarfile.open(temporary, "w:gz") as archive:
        for path in paths:
            archive.add(path, path.relative_to(output))
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


def import_results(file: Path, jobs: Iterable[Job], layout: Layout) -> None:
    """Unpack an export into the folder of the results.

    Models that were half done are kept aside: they would continue from checkpoints that did not travel. Raises
    UserError when there are results already, and for a file that is no export.
    """
    output = layout.output
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} is not empty: import into a folder of its own, or remove it first")
    try:
        with tarfile.open(file) as archive:
            output.mkdir(parents=True, exist_ok=True)
            archive.extractall(output, filter="data")
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(
            f"{file} cannot be unpacked into {output} ({reason_of(error)}); expected a file of --export, whole"
        ) from error
    for job in jobs:
        if job.makes_model and not record_of(job, layout):
            keep_aside(layout.folder(job.name))
    print(f"{output}: {sum(path.is_file() for path in output.rglob('*'))} files")


def _travels(path: Path) -> bool:
    """`path`: below the folder of the results. The quickstart's world does, with its small base model."""
    if path.parts[0] == WORLD:
        return True
    return (
        path.suffix not in WEIGHTS
        and (not set(MODELS) & set(path.parts[:-1]) or path.name in KEPT_OF_MODELS)
        and not any(part.endswith(".work") or part == "checkpoints" for part in path.parts)
    )
