"""Makes the quickstart's world: three problem files and a trained base model.

    python -m quickstart.make_world --output-dir DIR [--seed N]

Writes DIR/data/{train,validation,heldout}.jsonl, DIR/base/ (an ordinary Hugging Face checkpoint) and, last,
DIR/world.json with the settings. Asked again with the same settings it does nothing; with others it refuses.
Everything is made under DIR/.unfinished and moved when complete, so a stopped run leaves no half of a world.
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from quickstart.base_model import Training, save_checkpoint, train_base
from quickstart.phrases import PHRASES
from quickstart.world import Sizes, World, make_splits, write_jsonl
from srt.common.console import progress
from srt.common.errors import UserError, run_entry_point

# Raise it when the same settings begin to mean another world.
FORMAT = 1
SETTINGS = "world.json"
UNFINISHED = ".unfinished"
PARTS = ("data", "base", SETTINGS)  # in the order in which they are moved: the settings say that all is there


def settings_of(world: World, sizes: Sizes, training: Training) -> dict:
    """Everything that decides what the files hold, as it stands in world.json."""
    return {
        "format": FORMAT,
        "seed": world.seed,
        "hard_share": world.hard_share,
        "slip_probability": world.slip_probability,
        "problems": asdict(sizes),
        "base_training": asdict(training),
        "control_phrases": {str(r): phrase for r, phrase in PHRASES.items()},
    }


def differing(found: dict, wanted: dict) -> str:
    """The settings in which two worlds differ, for a message."""
    keys = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    return ", ".join(f"{k} {json.dumps(found.get(k))} instead of {json.dumps(wanted.get(k))}" for k in keys)


def make_world(
    output_dir: Path,
    world: World,
    sizes: Sizes = Sizes(),  # noqa: B008 (frozen)
    training: Training = Training(),  # noqa: B008 (frozen)
) -> bool:
    """Makes the world in `output_dir`; False when the same one is already there.

    Raises:
        UserError: another world, or files that are not ours, are in the way.
    """
    wanted = settings_of(world, sizes, training)
    unfinished = output_dir / UNFINISHED
    if _is(unfinished / SETTINGS, wanted):  # stopped between two moves
        _move(unfinished, output_dir)
    if (output_dir / SETTINGS).exists():
        found = json.loads((output_dir / SETTINGS).read_text())
        if found == wanted:
            return False
        difference = differing(found, wanted)
        raise UserError(f"{output_dir} holds another world ({difference}): choose another folder.")
    for part in PARTS:
        if (output_dir / part).exists():
            raise UserError(f"{output_dir / part} is in the way and not of our making: choose another folder.")

    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "data").mkdir(parents=True)
    for split, problems in make_splits(world, sizes).items():
        write_jsonl(unfinished / "data" / f"{split}.jsonl", split, problems)
    with progress(training.steps, "step") as bar:
        bar.set_description("training the base")

        def report(step: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update()

        model, tokenizer = train_base(world, training, report)
    save_checkpoint(model, tokenizer, unfinished / "base")
    pending = unfinished / (SETTINGS + ".new")
    pending.write_text(json.dumps(wanted, indent=2) + "\n")
    pending.rename(unfinished / SETTINGS)
    _move(unfinished, output_dir)
    return True


def _is(path: Path, wanted: dict) -> bool:
    return path.exists() and json.loads(path.read_text()) == wanted


def _move(unfinished: Path, output_dir: Path) -> None:
    for part in PARTS:
        if (unfinished / part).exists():
            (unfinished / part).rename(output_dir / part)
    unfinished.rmdir()


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Makes the quickstart's problems and its small base model.")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for data/ and base/")
    parser.add_argument("--seed", type=int, default=0, help="which world (default 0)")
    args = parser.parse_args(argv)
    if not make_world(args.output_dir, World(args.seed)):
        print(f"{args.output_dir} already holds this world (seed {args.seed}); nothing to do")
        return
    sizes = Sizes()
    print(
        f"a world of seed {args.seed}: {sizes.train} train, {sizes.validation} validation and {sizes.heldout} "
        f"heldout problems in {args.output_dir / 'data'}, a base model that errs on about half of them in "
        f"{args.output_dir / 'base'}"
    )


if __name__ == "__main__":
    run_entry_point(main)
