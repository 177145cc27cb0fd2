"""distill.sh --dry-run: steps, updates and tokens, and nothing is written."""

import json
import re

import pytest

from opsd.distill import distill
from srt.config import CONFIGS, KnobLine, read_knob_table


@pytest.fixture
def dry_run(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """dry_run(*knobs) -> what it prints; opening an engine fails the test."""

    def refuse(run):
        raise AssertionError("a dry run starts nothing")

    monkeypatch.setattr("opsd.distill.open_engine", refuse)
    problems = tmp_path / "problems.jsonl"
    lines = [{"id": f"p{n}", "problem": f"x = {n}", "answer": "7"} for n in range(10)]
    problems.write_text("".join(json.dumps(line) + "\n" for line in lines))
    knobs = [f"student_model={tiny_checkpoint}", f"train_dataset={problems}", f"val_dataset={problems}"]
    knobs += ["engine=local", f"output_dir={tmp_path / 'out'}", "num_prompts_per_step=4", "prompt_suffix="]

    def run(*more):
        distill([*knobs, *more, "--dry-run"])
        return capsys.readouterr().out

    return run


def figure(printed, name):
    return re.search(rf"\n  {name} +(\S+)", printed)[1]


def test_a_dry_run_counts_steps_updates_and_responses(dry_run, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    knobs = ("train_global_batch_size=2", "max_num_epochs=2", "max_total_sequence_length=60", "val_num_samples=3")
    printed = dry_run(*knobs, "val_period=2")
    assert sorted(tmp_path.rglob("*")) == before
    assert (figure(printed, "problems"), figure(printed, "steps"), figure(printed, "updates")) == ("10", "5", "10")
    assert (figure(printed, "responses"), figure(printed, "passes over the problems")) == ("20", "2")
    prompt = int(figure(printed, "prompt tokens"))
    assert figure(printed, "response tokens") == f"{20 * (60 - prompt):,}"
    assert figure(printed, "validations") == "4"  # before the first step, after 2 and 4, at the end
    assert figure(printed, "responses per validation") == "30"
    assert "docs/records.md, Phase 2, ENGINE=local" in printed
    assert printed.endswith("(new)\ndry run: no engine was started, nothing was written\n")
    assert figure(dry_run("max_num_steps=3", "train_global_batch_size=4", "val_period=0"), "validations") == "0"


def test_a_dry_run_prints_the_recipe_and_all_knobs(dry_run):
    printed = dry_run("recipe=release", "lr=1e-5", "train_global_batch_size=4", "max_num_epochs=20")
    assert "recipe: release (" in printed and "recipe: overridden by LR=1e-05 (not 5e-06)\n" in printed
    for line in read_knob_table(CONFIGS / "distill.yaml"):
        assert not isinstance(line, KnobLine) or f"\n  {line.env}=" in printed
    assert "\n  WARMUP_START=0.1\n" in printed and "\n  ADAM_BETA2=0.999\n" in printed
