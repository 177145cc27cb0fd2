"""What SFT knows of the collection that its stage files come from: the run.json beside them."""

from pathlib import Path
from typing import Any

from srt.collect.split import metadata_path
from srt.common.errors import UserError
from srt.common.files import read_json


def read_collection_identity(stage_path: Path) -> dict[str, Any]:
    """The identity of the collection, its `revisions`, `recipe` and `prompt_probe`, from the run.json beside the
    stage file.

    Empty if that is missing.
    """
    path = metadata_path(stage_path)
    if not path.is_file():
        print(
            f"{path} is missing: assuming that the data was collected with the default prompt of MODE=math and "
            "the phrases of CONTROL_PHRASES"
        )
        return {}
    run = _read_run(path)
    config = run.get("config", {})
    return run["identity"] | {
        "revisions": run.get("revisions", {}),
        "recipe": {"srt_data": config["recipe"]} if config.get("recipe") else {},
        "prompt_probe": config.get("prompt_probe"),  # None: collected before it was recorded
    }


def check_same_collection(stage_paths: list[Path]) -> None:
    """Raises UserError when the stage files come from two collections, of which one may have other prompts."""
    paths = [path for path in map(metadata_path, stage_paths) if path.is_file()]
    identities = [_read_run(path)["identity"] for path in paths]
    if len(identities) == 2 and identities[0] != identities[1]:
        names = identities[0].keys() | identities[1].keys()
        differing = sorted(name for name in names if identities[0].get(name) != identities[1].get(name))
        raise UserError(
            f"{stage_paths[0]} and {stage_paths[1].name} come from different collections "
            f"({', '.join(differing)}); make both again with run_srt_data.sh"
        )


def _read_run(path: Path) -> dict[str, Any]:
    """Raises UserError for a damaged run.json."""
    run = read_json(path)
    if not isinstance(run, dict) or not isinstance(run.get("identity"), dict):
        raise UserError(
            f"{path}: damaged (expected an object with the identity of the collection); make the stage files "
            "again with run_srt_data.sh"
        )
    return run
