"""Create the world of the quickstart: three problem files and a trained base model.

    python -m quickstart.make_world --output-dir DIR [--seed N]

Writes DIR/data/{train,validation,heldout}.jsonl, DIR/base/ (a Hugging Face checkpoint) and, last, DIR/world.json
with the settings. Called again with the same settings, it does nothing; with different ones, it refuses. All
files are written under DIR/.unfinished and moved when complete, so an interrupted call leaves no partial world.
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from quickstart.base_model import BaseTrainingConfig, save_checkpoint, train_base
from quickstart.phrases import PHRASES
from quickstart.world import Sizes, World, make_splits, write_jsonl
from srt.common.entry_point import run_entry_point
from srt.common.errors import UserError
from srt.common.progress import Progress

# Increase it when the same settings would create a different world.
FORMAT = 1
SETTINGS = "world.json"
UNFINISHED = ".unfinished"
PARTS = ("data", "base", SETTINGS)  # in the order of moving; the settings come last and mark a complete world


def world_settings(world: World, sizes: Sizes, training: BaseTrainingConfig) -> dict:
    """Everything that determines the content of the files; the content of world.json."""
    return {
        "format": FORMAT,
        "seed": world.seed,
        "hard_share": world.hard_share,
        "slip_probability": world.slip_probability,
        "problems": asdict(sizes),
        "base_training": asdict(training),
        "control_phrases": {str(r): phrase for r, phrase in PHRASES.items()},
    }


def describe_differences(actual: dict, expected: dict) -> str:
    """The settings in which two worlds differ, for a message."""
    keys = sorted(key for key in {*actual, *expected} if actual.get(key) != expected.get(key))
    return ", ".join(f"{k} {json.dumps(actual.get(k))} instead of {json.dumps(expected.get(k))}" for k in keys)


def make_world(
    output_dir: Path,
    world: World,
    sizes: Sizes = Sizes(),  # noqa: B008 (frozen)
    training: BaseTrainingConfig = BaseTrainingConfig(),  # noqa: B008 (frozen)
) -> bool:
    """Create the world in `output_dir`; False if the same one is already there.

    Raises UserError if the folder holds another world, or files that this script did not create.
    """
    settings = world_settings(world, sizes, training)
    unfinished = output_dir / UNFINISHED
    if _has_settings(unfinished, settings):  # interrupted between two moves
        _move(unfinished, output_dir)
    if (output_dir / SETTINGS).exists():
        existing = json.loads((output_dir / SETTINGS).read_text())
        if existing == settings:
            return False
        differences = describe_differences(existing, settings)
        raise UserError(f"{output_dir} holds another world ({differences}); choose another folder")
    for part in PARTS:
        if (output_dir / part).exists():
            raise UserError(
                f"{output_dir / part} already exists and was not created by this script; choose another folder"
            )

    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "data").mkdir(parents=True)
    for split, problems in make_splits(world, sizes).items():
        write_jsonl(unfinished / "data" / f"{split}.jsonl", split, problems)
    with Progress("training the base model") as bar:

        def report(step: int, loss: float) -> None:
            bar.show((step + 1) / training.steps, f"{step + 1}/{training.steps} steps", f"loss {loss:.3f}")

        model, tokenizer = train_base(world, training, report)
    save_checkpoint(model, tokenizer, unfinished / "base")
    pending = unfinished / (SETTINGS + ".new")
    pending.write_text(json.dumps(settings, indent=2) + "\n")
    pending.rename(unfinished / SETTINGS)
    _move(unfinished, output_dir)
    return True


def _has_settings(folder: Path, settings: dict) -> bool:
    path = folder / SETTINGS
    return path.exists() and json.loads(path.read_text()) == settings


def _move(unfinished: Path, output_dir: Path) -> None:
    for part in PARTS:
        if (unfinished / part).exists():
            (unfinished / part).rename(output_dir / part)
    unfinished.rmdir()


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Create the problems and the small base model of the quickstart.")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for data/ and base/")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world (default 0)")
    args = parser.parse_args(argv)
    if not make_world(args.output_dir, World(args.seed)):
        print(f"{args.output_dir} already holds this world (seed {args.seed}); nothing to do")
        return
    sizes = Sizes()
    print(
        f"created the world of seed {args.seed}: {sizes.train} training, {sizes.validation} validation and "
        f"{sizes.heldout} held-out problems in {args.output_dir / 'data'}, and in {args.output_dir / 'base'} "
        "a base model that gets about half of them wrong"
    )


if __name__ == "__main__":
    run_entry_point(main)
