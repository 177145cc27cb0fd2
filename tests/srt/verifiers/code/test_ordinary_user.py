"""The attacks again, judged by an ordinary user, where the tests run as root: the sandbox differs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
USER = "nobody"
SUITES = (
    "test_sandbox_attacks.py",
    "test_sandbox_failures.py",
    "test_function_attacks.py",
    "test_limits.py",
    "test_seccomp.py",
)
# In namespaces of their own: a home folder that others may enter, with nothing but the Python installation in it.
REACHABLE = """
kept=$(mktemp -d) && mount --bind "$1" "$kept" && mount -t tmpfs -o mode=755 tmpfs "$2" && mkdir -p "$1" &&
mount --move "$kept" "$1" && shift 2 && exec "$@"
"""

pytestmark = pytest.mark.bwrap


def ordinary_user_prefix():
    """The prefix of a command that runs it as USER; a reason (str) why there is none."""
    as_user = ["runuser", "-u", USER, "--"]
    base = Path(sys.base_prefix)
    through_home = ["unshare", "--mount", "sh", "-c", REACHABLE, "sh", str(base), f"/{base.parts[1]}", *as_user]
    for prefix in (as_user, through_home):
        check = [*prefix, sys.executable, "-c", "import pytest; from srt.verifiers.code import sandbox"]
        try:
            result = subprocess.run(check, capture_output=True, text=True, cwd=ROOT, env=environment())
        except FileNotFoundError as error:
            return str(error)
        if result.returncode == 0:
            return prefix
    return f"{USER} cannot run this Python with this repository: {result.stderr.strip()[-200:]}"


def environment():
    paths = [str(ROOT / "self-revision-training"), str(ROOT / "self-distillation")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/nonexistent",
    }


@pytest.mark.parametrize("suite", SUITES)
def test_attacks_as_an_ordinary_user(suite):
    if os.geteuid() != 0:
        pytest.skip("this is an ordinary user already")
    prefix = ordinary_user_prefix()
    if isinstance(prefix, str):
        pytest.skip(prefix)
    command = [
        *prefix,
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        f"/tmp/{USER}-{os.getpid()}",
    ]
    result = subprocess.run(
        [*command, str(Path(__file__).with_name(suite))],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
