"""The shell scripts themselves: help, the choice of an environment, exit codes."""

import os
import shutil
import subprocess

import pytest

from srt.knobs import CONFIGS, KnobLine, read_knob_table
from tests.end_to_end.commands import REPOSITORY, run_script, the_error

CONFIG_OF = {
    "run_srt_data": "srt_data", "sft": "sft", "distill": "distill", "evaluate": "evaluate", "report": "report",
}  # fmt: skip


@pytest.mark.parametrize("script", CONFIG_OF)
def test_help_prints_every_knob_with_its_meaning(script):
    outcome = run_script(script, {}, "--help")
    assert outcome.code == 0, outcome
    knobs = [line for line in read_knob_table(CONFIGS / f"{CONFIG_OF[script]}.yaml") if isinstance(line, KnobLine)]
    assert knobs
    for knob in knobs:
        assert f"  {knob.env}=" in outcome.out and knob.meaning in outcome.out


def test_the_quickstarts_help_says_how_to_choose_seed_and_folder_and_makes_nothing():
    outcome = run_script("quickstart", {}, "--help")
    assert outcome.code == 0, outcome
    assert "SEED=" in outcome.out and "OUTPUT=" in outcome.out
    assert "environment:" not in outcome.out


@pytest.mark.parametrize("script", CONFIG_OF)
def test_without_any_environment_the_script_says_what_to_do(script, tmp_path):
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    without = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    command = ["bash", tmp_path / "scripts" / f"{script}.sh"]
    done = subprocess.run(command, env=without, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: no Python environment: activate one") and "quickstart.sh" in done.stderr


def test_the_active_environment_wins(tmp_path):
    """VIRTUAL_ENV's python is started, not the one of an environment that lies in the repository."""
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "mine: $1"\n')
    python.chmod(0o755)
    outcome = run_script("sft", {"VIRTUAL_ENV": tmp_path / "env"})
    assert outcome.out == f"mine: {REPOSITORY}/self-revision-training/sft.py\n"


def test_a_refused_command_line_ends_the_script_with_2_and_one_sentence():
    """Also in run_srt_data.sh, which would go on to a second program."""
    outcome = run_script("run_srt_data", {"BATCH_SIZE": "many"})
    error = the_error(outcome)
    assert error == "error: BATCH_SIZE=many: a whole number is expected (problems in flight)"
    assert outcome.out == ""
