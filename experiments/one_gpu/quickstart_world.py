"""The quickstart's world as problems of the experiment: its base model, and its files by the experiment's names.

Facts on which the base model slips with a probability below one half are right in its majority, so that a method
that only sharpens learns them. Above one half its majority is wrong there, and only the verdict can teach them.
"""

from experiments.one_gpu.plan import WORLD, Layout
from quickstart.make_world import make_world
from quickstart.world import World

PHASE1_SHARE = 0.25  # of the training problems; the others are left to Phase 2
SAME = {"validation": "validation", "test": "heldout"}  # split -> file of the world


def prepare_world(layout: Layout, seed: int, slip_probability: float) -> None:
    """Make the world under OUTPUT/world, unless it is there.

    Raises UserError if OUTPUT holds a world of another seed or slip probability.
    """
    world = layout.output / WORLD
    make_world(world, World(seed, slip_probability=slip_probability))
    layout.problems("train").parent.mkdir(parents=True, exist_ok=True)

    def lines(name: str) -> list[str]:
        return (world / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)

    train = lines("train")
    first = round(PHASE1_SHARE * len(train))
    for split, chosen in {"train": train[:first], "distill": train[first:]}.items():
        layout.problems(split).write_text("".join(chosen), encoding="utf-8")
    for split, name in SAME.items():
        layout.problems(split).write_text("".join(lines(name)), encoding="utf-8")
