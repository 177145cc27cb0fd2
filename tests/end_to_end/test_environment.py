"""scripts/environment.sh: which Python the small environment is made of, and what is said where there is none."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.end_to_end.commands import REPOSITORY

TOOLS = ("bash", "dirname", "cat", "rm", "id", "sha256sum", "cut", "grep", "sed")
VERSION = "{}.{}".format(*sys.version_info)
PYTHON = getattr(sys, "_base_executable", sys.executable)


@pytest.fixture
def machine(tmp_path):
    """A PATH with the shell's tools only, to which a test adds Pythons; `machine(...)` creates an environment."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found
        (tools / tool).symlink_to(found)

    def create(**programs: str) -> subprocess.CompletedProcess:
        for name, program in programs.items():
            path = tools / name.replace("_", ".")
            path.write_text(f"#!/bin/sh\n{program}\n")
            path.chmod(0o755)
        script = (
            f"set -euo pipefail; source {REPOSITORY}/scripts/environment.sh; create_environment {tmp_path / 'env'}"
        )
        environment = {"PATH": str(tools), "HOME": str(tmp_path)}
        return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)

    return create


SHIM = 'echo "pyenv: $0: command not found" >&2; exit 127'
TOO_OLD = "echo 3.9"
WITHOUT_VENV = f'case "$2" in *ensurepip*) exit 1 ;; esac; exec {PYTHON} "$@"'


@pytest.mark.parametrize(
    "others", [{}, {"python3_11": SHIM, "python3_12": SHIM, "python3_13": SHIM}, {"python": TOO_OLD}]
)
def test_the_environment_is_made_of_a_python_that_runs_and_a_line_says_of_which(machine, tmp_path, others):
    done = machine(**others, python3=f'exec {PYTHON} "$@"')
    assert done.returncode == 0, done
    assert re.fullmatch(rf"environment: Python {VERSION}\.\S+, from {tmp_path}/bin/python3\n", done.stdout)
    pip = subprocess.run([tmp_path / "env/bin/python", "-m", "pip", "--version"], capture_output=True, text=True)
    assert pip.stdout.strip().endswith(f"(python {VERSION})")


def test_a_python_of_pyenv_is_found_though_it_is_not_on_the_path(machine, tmp_path):
    python = tmp_path / ".pyenv" / "versions" / f"{VERSION}.99" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {PYTHON} "$@"\n')
    python.chmod(0o755)
    done = machine(python3_11=SHIM)
    assert done.returncode == 0 and done.stdout.endswith(f"from {python}\n"), done


@pytest.mark.parametrize("programs", [{}, {"python3": TOO_OLD}, {"python3_12": SHIM, "uv": "exit 127"}])
def test_without_a_python_one_sentence_says_what_to_install(machine, programs):
    done = machine(**programs)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: none of Python 3.11, 3.12, 3.13 is on the PATH, and uv")
    assert "apt-get install python3 python3-venv" in line


def test_a_python_without_venv_is_named_with_the_package_that_it_lacks(machine, tmp_path):
    """As Debian's and Ubuntu's before python3-venv is installed."""
    done = machine(python3=WITHOUT_VENV)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path}/bin/python3 has no venv or pip; install them (Debian and Ubuntu: apt-get install "
        "python3-venv) or uv\n"
    )


def test_the_lock_leaves_what_torch_pins_to_torch():
    """Its build with CUDA, the one that most indexes have, pins triton; its CPU build has none."""
    names = {re.split("[=<>]", line)[0] for line in (REPOSITORY / "requirements/cpu.txt").read_text().splitlines()}
    assert "numpy" in names
    assert not [name for name in names if re.match("torch$|triton|nvidia|cuda", name)]


FAKE_PYTHON = """
case "$*" in
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  "-m pip "*) echo "$*" >>"$HOME/pip.log"; sleep 0.3 ;;
  "-c import sys"*) echo {version} ;;
  -V) echo Python ;;
esac
"""


def test_two_scripts_that_start_at_once_install_once(tmp_path):
    repository, tools = tmp_path / "repository", tmp_path / "bin"
    (repository / "requirements").mkdir(parents=True)
    for name in ("cpu.in", "cpu.txt"):
        (repository / "requirements" / name).write_text("torch==0\n")
    tools.mkdir()
    (tools / "python3").write_text("#!/bin/sh" + FAKE_PYTHON.format(version=VERSION))
    (tools / "python3").chmod(0o755)
    for tool in (*TOOLS, "flock", "mkdir", "cp", "sleep", "true"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    script = f"set -euo pipefail; source {REPOSITORY}/scripts/environment.sh; make_environment; echo made"
    environment = {"PATH": str(tools), "HOME": str(tmp_path), "REPOSITORY": str(repository)}
    environment["CPU_ENVIRONMENT"] = str(repository / ".venv-cpu")
    command = ["bash", "-c", script]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = sorted(process.communicate(timeout=60)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert all(output.endswith("made\n") for output in outputs)
    assert len((tmp_path / "pip.log").read_text().splitlines()) == 3  # torch, the others, this repository
    assert "installing into" in outputs[0] and "waiting for another script" in outputs[1]
    assert "is up to date" in outputs[1]
