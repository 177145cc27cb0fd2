"""Recipes: the values of each for every entry point, precedence, and what a run prints and stores."""

import shutil
from dataclasses import asdict

import pytest

import srt.config
from opsd.config import DistillConfig
from opsd.distill import prepare
from srt.collect.run import CollectConfig
from srt.common.errors import UserError
from srt.config import RECIPES, load_config
from srt.contract.phrases import PHRASE_SETS
from srt.contract.provenance import write_metadata
from srt.evaluation.config import EvaluateConfig
from srt.recipe import print_recipe, recipe_record
from srt.sft.config import SftConfig

SCHEMAS = {"srt_data": CollectConfig, "sft": SftConfig, "distill": DistillConfig, "evaluate": EvaluateConfig}

DISTILL_README = {
    "control_phrases": None,
    "kl_type": "reverse",
    "mixed_kl_weight": 0.5,
    "topk": 0,
    "lr": 5e-6,
    "lr_schedule": "linear",
    "warmup_steps": 5,
    "warmup_start": None,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "exclude_srt_problems": True,
    "val_max_tokens": None,
    "teacher_sync": "none",
}
GOLDEN = {
    "readme": {
        "srt_data": {
            "control_phrases": None,
            "max_samples": None,
            "num_responses": 1,
            "num_revisions": 1,
            "revise_correct": False,
            "temperature": 1.0,
            "max_tokens": 16384,
        },
        "sft": {"control_phrases": None, "srt_objective": "two_stage", "tuples_per_update": 4},
        "distill": DISTILL_README,
        "evaluate": {"control_phrases": None, "max_tokens": 16384},
    },
    "paper": {
        "srt_data": {
            "control_phrases": "paper",
            "max_samples": 10_000,
            "num_responses": 1,
            "num_revisions": 3,
            "revise_correct": True,
            "temperature": 0.7,
            "max_tokens": 16384,
        },
        "sft": {"control_phrases": "paper", "srt_objective": "joint", "tuples_per_update": 4},
        "distill": DISTILL_README
        | {"control_phrases": "paper", "topk": 64, "val_max_tokens": 32768, "teacher_sync": "plateau"},
        "evaluate": {"control_phrases": "paper", "max_tokens": 32768},
    },
    "release": {
        "srt_data": {
            "control_phrases": "qwen",
            "max_samples": None,
            "num_responses": 3,
            "num_revisions": 3,
            "revise_correct": False,
            "temperature": 1.0,
            "max_tokens": 16384,
        },
        "sft": {"control_phrases": "qwen", "srt_objective": "two_stage", "tuples_per_update": 4},
        "distill": {
            "control_phrases": "qwen",
            "kl_type": "mixed",
            "mixed_kl_weight": 0.5,
            "topk": 64,
            "lr": 5e-6,
            "lr_schedule": "constant_with_warmup",
            "warmup_steps": 20,
            "warmup_start": 0.1,
            "weight_decay": 0.01,
            "adam_beta1": 0.9,
            "adam_beta2": 0.999,
            "exclude_srt_problems": True,
            "val_max_tokens": 32768,
            "teacher_sync": "none",
        },
        "evaluate": {"control_phrases": "qwen", "max_tokens": 32768},
    },
}
every_entry_point = pytest.mark.parametrize("name", SCHEMAS)


def load(name, *argv):
    return load_config(SCHEMAS[name], name, list(argv))


@every_entry_point
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_values_of_each_recipe(name, recipe, monkeypatch):
    """And nothing else differs from the defaults."""
    expected = asdict(load(name)) | GOLDEN[recipe][name] | {"recipe": recipe}
    assert asdict(load(name, f"recipe={recipe}")) == expected
    monkeypatch.setenv("RECIPE", recipe)
    assert asdict(load(name)) == expected


def test_every_recipe_is_pinned_here_and_readme_is_the_default():
    assert set(GOLDEN) == set(RECIPES)
    assert {name: load(name).recipe for name in SCHEMAS} == dict.fromkeys(SCHEMAS, "readme")


def test_command_line_beats_environment_beats_recipe_beats_yaml(monkeypatch):
    def temperature(*argv):
        return load("srt_data", *argv).temperature

    assert (temperature(), temperature("recipe=paper")) == (1.0, 0.7)
    monkeypatch.setenv("TEMPERATURE", "0.5")
    assert temperature("recipe=paper") == 0.5
    assert temperature("recipe=paper", "temperature=0.3") == 0.3
    monkeypatch.setenv("RECIPE", "paper")
    monkeypatch.delenv("TEMPERATURE")
    assert (temperature(), temperature("recipe=readme")) == (0.7, 1.0)
    monkeypatch.setenv("MAX_SAMPLES", "null")  # as if it were not in the recipe
    assert load("srt_data").max_samples is None
    assert load("srt_data", "control_phrases=null").control_phrases is None


def test_a_recipe_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(UserError, match="RECIPE=papers: expected one of paper, readme, release"):
        load("sft", "recipe=papers")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("temprature: 1", r"paper\.yaml: srt_data has no knob temprature; see configs/srt_data\.yaml"),
        ("temperature: hot", "TEMPERATURE=hot: expected a number"),
        ("temperature: -1", "TEMPERATURE=-1.0: must be at least 0"),
    ],
)
def test_a_recipe_is_checked_like_any_other_source(tmp_path, monkeypatch, line, message):
    configs = shutil.copytree(srt.config.CONFIGS, tmp_path / "configs")
    (configs / "recipes" / "paper.yaml").write_text(f"srt_data:\n  {line}\n")
    monkeypatch.setattr("srt.config.CONFIGS", configs)
    with pytest.raises(UserError, match=message):
        load("srt_data", "recipe=paper")


# What a run says and stores -----------------------------------------------------------------------------


def test_the_recipe_is_printed_with_what_a_knob_overrides(capsys):
    print_recipe(load("sft", "recipe=paper"), "sft")
    print_recipe(load("srt_data", "recipe=paper", "temperature=1", "revise_correct=0"), "srt_data")
    assert capsys.readouterr().out == (
        "recipe: paper (CONTROL_PHRASES=paper SRT_OBJECTIVE=joint TUPLES_PER_UPDATE=4)\n"
        "recipe: paper (MAX_SAMPLES=10000 NUM_RESPONSES=1 NUM_REVISIONS=3 CONTROL_PHRASES=paper "
        "MAX_TOKENS=16384)\n"
        "recipe: overridden by REVISE_CORRECT=0 (not 1), TEMPERATURE=1.0 (not 0.7)\n"
    )


def test_a_knob_that_repeats_the_recipe_overrides_nothing():
    assert recipe_record(load("sft", "recipe=paper", "srt_objective=joint"), "sft") == {
        "name": "paper",
        "overridden": {},
    }
    assert recipe_record(load("sft", "tuples_per_update=32"), "sft")["overridden"] == {"tuples_per_update": 32}


def test_a_checkpoint_of_another_recipes_phrases_is_refused(tiny_checkpoint, tmp_path):
    srt_model = shutil.copytree(tiny_checkpoint, tmp_path / "srt")
    stored = {"mode": "math", "control_phrases": PHRASE_SETS["qwen"].as_dict()}
    write_metadata(srt_model, stored)
    with pytest.raises(UserError, match=r"CONTROL_PHRASES=paper contradicts .*srt, which was made .*'qwen'"):
        prepare(load("distill", "recipe=paper", f"student_model={srt_model}", "report_to=none"))
