"""The shell scripts themselves: help, choice of environment, exit codes."""

import os
import shutil
import subprocess
import sys

import pytest

from srt.config import CONFIGS, KnobLine, read_knob_table
from tests.end_to_end.commands import ENTRY_POINTS, REPOSITORY, environment, run_script, the_error
from tests.end_to_end.toy_task import write_problems

CONFIG_OF = {
    "run_srt_data": "srt_data",
    "sft": "sft",
    "distill": "distill",
    "evaluate": "evaluate",
    "report": "report",
    "localize": "localize",
}


@pytest.mark.parametrize("script", CONFIG_OF)
def test_help_prints_every_knob_with_its_meaning(script):
    outcome = run_script(script, {}, "--help")
    assert outcome.code == 0, outcome
    config = [
        line for line in read_knob_table(CONFIGS / f"{CONFIG_OF[script]}.yaml") if isinstance(line, KnobLine)
    ]
    assert config
    unfolded = " ".join(outcome.out.split())  # the meanings are folded at the width of the terminal
    for knob in config:
        assert f"  {knob.env}=" in outcome.out and " ".join(knob.help.split()) in unfolded
    assert max(map(len, outcome.out.splitlines())) < 200
    assert f"bash scripts/{script}.sh" in outcome.out


def programs() -> list[str]:
    """All that users may call in scripts/; what is sourced has no first line of its own."""
    folder = REPOSITORY / "scripts"
    paths = [path for path in folder.rglob("*.sh") if path.read_text().startswith("#!")]
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in paths)


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("script", programs())
def test_help_is_printed_and_nothing_is_done(script, flag):
    outcome = run_script(script, {}, flag)
    assert (outcome.code, outcome.err) == (0, ""), outcome
    lines = outcome.out.splitlines()
    assert len(lines) >= 3 and not any(line.startswith(("#", "source ", "environment:")) for line in lines)


# The arguments of these two are pytest's.
@pytest.mark.parametrize("script", sorted({*programs()} - {"test", "test_nemo_rl"}))
def test_an_unknown_argument_is_refused_in_one_sentence(script):
    outcome = run_script(script, {}, "--nonsense")
    assert "nonsense" in the_error(outcome) and outcome.err.count("\n") == 1
    assert outcome.out == ""


@pytest.mark.parametrize("script", ["quickstart_seeds", "experiments/quickstart_rivals"])
def test_seeds_are_needed(script):
    assert the_error(run_script(script, {})).startswith("error: no seed is given")


def test_quickstart_help_explains_seed_and_folder():
    outcome = run_script("quickstart", {}, "--help")
    assert "SEED=" in outcome.out and "OUTPUT=" in outcome.out


@pytest.mark.parametrize("script", CONFIG_OF)
def test_without_an_environment_the_error_says_what_to_do(script, tmp_path):
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    without = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    command = ["bash", tmp_path / "scripts" / f"{script}.sh"]
    done = subprocess.run(command, env=without, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: no Python environment: activate one") and "quickstart.sh" in done.stderr


def test_the_active_environment_wins(tmp_path):
    """VIRTUAL_ENV's python is used, not that of an environment in the repository."""
    outcome = run_script("sft", {"VIRTUAL_ENV": fake_environment(tmp_path / "env", "mine: $1")})
    assert outcome.out == f"mine: {REPOSITORY}/self-revision-training/sft.py\n"


def fake_environment(folder, name):
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "{name}"\n')
    python.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("script", "active", "own", "used"),
    [
        ("sft", "phase 2", True, "phase 1"),
        ("evaluate", "phase 1", True, "phase 1"),
        ("distill", "phase 1", True, "phase 2"),
        ("distill", "phase 2", True, "phase 2"),
        ("distill", "mine", True, "mine"),
        ("distill", "phase 1", False, "phase 1"),
    ],
)
def test_the_environment_of_the_other_phase_does_not_win(tmp_path, script, active, own, used):
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    folders = {
        "phase 1": tmp_path / ".venv",
        "phase 2": tmp_path / "self-distillation" / ".venv",
        "mine": tmp_path / "mine",
    }
    for name, folder in folders.items():
        if own or name == active:
            fake_environment(folder, name)
    environment = os.environ | {"VIRTUAL_ENV": str(folders[active])}
    command = ["bash", tmp_path / "scripts" / f"{script}.sh", "ENGINE=local"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{used}\n"
    assert ("the active environment is that of the other phase" in done.stderr) == (used != active)


@pytest.mark.parametrize(
    ("variable", "arguments", "sets_up"),
    [
        ("nemo-rl", [], True),
        ("local", [], False),
        ("", [], False),
        ("", ["ENGINE=nemo-rl"], True),
        ("local", ["engine=nemo-rl"], True),
        ("nemo-rl", ["engine=local"], False),
        ("nemo-rl", ["student_model=runs/engine=local/stage2"], True),
    ],
)
def test_an_argument_says_which_engine_is_set_up_before_the_variable_does(tmp_path, variable, arguments, sets_up):
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    fake_environment(tmp_path / ".venv-cpu", "small")
    (tmp_path / "self-distillation").mkdir()
    (tmp_path / "self-distillation" / "setup_env.sh").write_text("echo set up\n")
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment |= {"ENGINE": variable, "NUM_NODES": "2"}  # no GPU is needed here
    command = ["bash", tmp_path / "scripts" / "distill.sh", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == ("set up\n" if sets_up else "") + "small\n"


def test_an_invalid_knob_ends_the_script_with_exit_code_2_and_one_error_line():
    """Also in run_srt_data.sh, which would otherwise go on to a second program."""
    outcome = run_script("run_srt_data", {"BATCH_SIZE": "many"})
    error = the_error(outcome)
    assert error.startswith("error: BATCH_SIZE=many: expected a whole number (problems in flight")
    assert outcome.out == ""


def run_entry_point_file(entry_point: str, before: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs the file as a program after the statements `before`; prints at exit whether torch was imported."""
    path = str(REPOSITORY / ENTRY_POINTS[entry_point])
    program = f"""
import runpy, sys, atexit
atexit.register(lambda: print("torch" in sys.modules, file=sys.__stdout__))
{before}
sys.argv = {[path, *arguments]!r}
runpy.run_path({path!r}, run_name="__main__")
"""
    paths = os.pathsep.join(str(REPOSITORY / name) for name in ("self-revision-training", "self-distillation"))
    env = environment({}) | {"PYTHONPATH": paths}
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_help_does_not_import_torch(entry_point):
    done = run_entry_point_file(entry_point, "", "--help")
    assert done.returncode == 0 and "Knobs of" in done.stdout, done
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("entry_point", sorted(ENTRY_POINTS))
def test_a_wrong_knob_is_refused_before_torch_is_imported(entry_point):
    """Importing torch takes seconds."""
    done = run_entry_point_file(entry_point, "", "no_such_knob=1")
    assert done.returncode == 2 and done.stdout == "False\n", done
    assert done.stderr.startswith("error: unknown knob 'no_such_knob=1'")


@pytest.mark.parametrize(
    ("entry_point", "arguments", "error"),
    [
        ("collect", ["right_share=0.5"], "REVISE_CORRECT=1"),
        ("distill", ["num_prompts_per_step=6", "train_global_batch_size=4"], "does not divide"),
    ],
)
def test_knobs_that_contradict_each_other_are_refused_as_early(entry_point, arguments, error):
    done = run_entry_point_file(entry_point, "", *arguments)
    assert done.returncode == 2 and done.stdout == "False\n", done
    assert error in done.stderr


INTERRUPTING_IMPORT = """
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "srt.collect.split", "srt.report.run"):  # two entry points do not import torch
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
"""


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_ctrl_c_during_imports_gives_no_traceback(entry_point):
    """Imports take most of the first seconds."""
    done = run_entry_point_file(entry_point, INTERRUPTING_IMPORT)
    assert done.returncode == 130, done
    assert done.stderr == "\nstopped; the same command continues from here\n"


def test_a_dry_run_of_the_script_starts_writes_and_splits_nothing(tiny_checkpoint, tmp_path):
    problems = write_problems(tmp_path / "problems.jsonl", 4)
    config = {"MODEL_PATH": tiny_checkpoint, "DATASET": problems}
    folders = {"OUTPUT_DIR": tmp_path / "output", "TRAIN_DATA_DIR": tmp_path / "train_data"}
    outcome = run_script("run_srt_data", config | folders, "--dry-run")
    assert outcome.code == 0, outcome
    assert outcome.out.endswith("dry run: no engine was started, nothing was written\n")
    assert "MODEL_PATH=" in outcome.out and "<|im_start|>" in outcome.out
    assert [path.name for path in tmp_path.iterdir()] == ["problems.jsonl"]


def test_help_mentions_the_dry_run():
    assert "With --dry-run it prints" in run_script("run_srt_data", {}, "--help").out
