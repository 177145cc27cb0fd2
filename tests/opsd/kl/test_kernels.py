"""The fused kernels without a GPU, in a process that interprets them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton, for its interpreter")
def test_kernels_match_the_reference_in_the_interpreter():
    tests = Path(__file__).parents[1] / "helpers" / "interpreted_kl_kernels.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tests.parents[3])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
