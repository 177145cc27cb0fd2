"""Fixtures shared by several test files."""

import functools
import importlib
import signal
from pathlib import Path

import pytest

from quickstart.base_model import new_model, save_checkpoint
from quickstart.tokenizer import build_tokenizer
from srt.common.errors import UserError
from srt.verifiers.code.languages import find_toolchain
from srt.verifiers.code.sandbox.sandbox import Sandbox
from tests.end_to_end.commands import KNOB_VARIABLES


@functools.cache
def why_no_vllm() -> str | None:
    """None, or why vLLM cannot be used: even where it is installed, its import may fail."""
    try:
        importlib.import_module("vllm")
    except Exception as error:  # a broken build fails in many ways, and its tests can run in none of them
        return f"vLLM does not import ({type(error).__name__}: {error})"
    return None


@functools.cache
def why_no_bwrap() -> str | None:
    """None, or why bubblewrap cannot isolate programs here."""
    try:
        Sandbox("bwrap")
    except UserError as error:
        return str(error)
    return None


def pytest_runtest_setup(item):
    if item.get_closest_marker("bwrap") and (reason := why_no_bwrap()):
        pytest.skip(reason)
    if item.get_closest_marker("vllm") and (reason := why_no_vllm()):
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def no_knobs_from_the_shell(monkeypatch):
    """Knobs set in the shell that runs the tests must not reach them."""
    for variable in KNOB_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal():
    """`nohup`, a shell's background jobs and entry points that ended in this process leave them ignored, and what
    a test starts would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def set_path(monkeypatch):
    """Sets PATH for one test; compilers that it hides are looked up again afterwards."""

    def set_path(path: str) -> None:
        monkeypatch.setenv("PATH", path)
        find_toolchain.cache_clear()

    yield set_path
    find_toolchain.cache_clear()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """An untrained Qwen3 of 0.6 M parameters with a chat template, saved as an ordinary checkpoint folder.

    Shared by all tests, so never write to it; copy it first with shutil.copytree.
    """
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-qwen3"
    tokenizer = build_tokenizer()
    save_checkpoint(new_model(tokenizer, seed=0), tokenizer, folder)
    return folder
