"""Runs a benchmark of Phase 2 as a user does, with the packages that the tests import."""

import os
import subprocess
import sys
from pathlib import Path

import opsd

BENCHMARKS = Path(opsd.__file__).parents[1] / "benchmarks"


def benchmark_process(name: str, *options: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of benchmarks/NAME.py."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *options]
    return command, os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def run_benchmark(name: str, *options: str) -> str:
    """What it prints. Fails, with its messages, where it does."""
    command, environment = benchmark_process(name, *options)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
