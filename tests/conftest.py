"""Fixtures that several test files share."""

import functools
import importlib
from pathlib import Path

import pytest

from quickstart.base_model import new_model, save_checkpoint
from quickstart.tokenizer import build_tokenizer
from srt.common.errors import UserError
from srt.config import CONFIGS, KnobLine, read_knob_table
from srt.verifiers.code.languages import find_toolchain
from srt.verifiers.code.sandbox import Sandbox

KNOB_VARIABLES = {
    line.env
    for path in CONFIGS.glob("*.yaml")
    for line in read_knob_table(path)
    if isinstance(line, KnobLine) and line.env
}


@functools.cache
def why_no_vllm() -> str | None:
    """None, or why vLLM cannot be used: a package that is installed may still not load here."""
    try:
        importlib.import_module("vllm")
    except Exception as error:  # a broken build fails in many ways; all mean that these tests cannot run
        return f"vLLM does not import ({type(error).__name__}: {error})"
    return None


@functools.cache
def why_no_bwrap() -> str | None:
    """None, or why programs cannot be shut in here."""
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
def no_knob_from_outside(monkeypatch):
    """A knob that happens to be set in the shell of whoever runs the tests must not reach them."""
    for variable in KNOB_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def set_path(monkeypatch):
    """Sets PATH for one test; the compilers that it hides are found again after it."""

    def set_path(path: str) -> None:
        monkeypatch.setenv("PATH", path)
        find_toolchain.cache_clear()

    yield set_path
    find_toolchain.cache_clear()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """An untrained Qwen3 of 0.6 M parameters with a chat template, saved as an ordinary checkpoint folder.

    It is shared by all tests: read it, never write to it (copy it first, with shutil.copytree).
    """
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-qwen3"
    tokenizer = build_tokenizer()
    save_checkpoint(new_model(tokenizer, seed=0), tokenizer, folder)
    return folder
