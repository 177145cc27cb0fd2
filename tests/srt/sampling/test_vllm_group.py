"""Engines of vLLM and torch's process group, each case in a process of its own: other tests have engines open."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm

SCRIPT = Path(__file__).parents[1] / "helpers" / "engines_and_groups.py"


def said(model, case) -> list[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, SCRIPT, model, case], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [line for line in done.stdout.splitlines() if "group" in line]


def test_the_group_ends_with_the_last_engine_and_the_next_engine_makes_another(tiny_checkpoint):
    assert said(tiny_checkpoint, "one_after_the_other") == [
        "the second is open: group",
        "both are closed: no group",
        "the third is open: group",
        "the third is closed: no group",
    ]


def test_a_group_that_was_there_before_the_engine_is_left_alone(tiny_checkpoint):
    assert said(tiny_checkpoint, "in_a_group_of_others") == ["closed: group"]


def test_a_group_that_cannot_be_ended_is_a_line_and_no_error(tiny_checkpoint):
    assert said(tiny_checkpoint, "that_cannot_be_left") == [
        "vLLM: its process group could not be ended (division by zero)",
        "closed: group",
    ]
