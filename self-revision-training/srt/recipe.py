"""RECIPE: which values a run has from its recipe, and which ones a knob overrides.

The rows of an entry point are the knobs that any recipe sets for it; a recipe that does not set one has the
default in configs/*.yaml. A run stores the name of its recipe and the rows that were overridden (run.json,
sd_zero.json).
"""

from typing import Any

from omegaconf import OmegaConf

from srt.config import CONFIGS, RECIPES, KnobLine, read_knob_table, read_recipe

Record = dict[str, Any]  # {"name": the recipe, "overridden": knob -> the value it has instead of the recipe's}


def recipe_rows(config: Any, config_name: str) -> dict[str, Any]:
    """Knob (key) -> the value of `config.recipe`, for each row of the entry point, in the order of its table."""
    rows = {key for name in RECIPES for key in read_recipe(name, config_name)}
    recipe = read_recipe(config.recipe, config_name)
    typed = OmegaConf.structured(type(config))  # turns text into the type of its field
    OmegaConf.set_readonly(typed, False)
    values = {}
    for line in read_knob_table(CONFIGS / f"{config_name}.yaml"):
        if isinstance(line, KnobLine) and line.key in rows:
            value = recipe.get(line.key, line.default)
            typed[line.key] = None if value == "null" else value
            values[line.key] = typed[line.key]
    return values


def recipe_record(config: Any, config_name: str) -> Record:
    rows = recipe_rows(config, config_name)
    overridden = {key: getattr(config, key) for key, value in rows.items() if getattr(config, key) != value}
    return {"name": config.recipe, "overridden": overridden}


def print_recipe(config: Any, config_name: str) -> None:
    """One line with the recipe's values, and one with what a knob overrides, if any."""
    rows = recipe_rows(config, config_name)
    overridden = recipe_record(config, config_name)["overridden"]
    followed = [f"{key.upper()}={_shown(value)}" for key, value in rows.items() if key not in overridden]
    print(f"recipe: {config.recipe} ({' '.join(followed)})")
    if overridden:
        changes = [f"{key.upper()}={_shown(value)} (not {_shown(rows[key])})" for key, value in overridden.items()]
        print(f"recipe: overridden by {', '.join(changes)}")


def _shown(value: Any) -> Any:
    return "unset" if value is None else int(value) if isinstance(value, bool) else value
