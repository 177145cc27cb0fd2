"""Work on text that a model or its program wrote, which nothing but its length bounds.

Short text is worked on at once: every step is linear, so its length bounds the time. Longer text goes to a
process of its own, with limits of CPU time and memory, which is killed at a deadline; other verdicts do not wait.
"""

import importlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

from srt.verifiers.base import tie_to_parent
from srt.verifiers.types import VerifierError

Result = TypeVar("Result")

INLINE_BYTES = 2**20  # worked on at once: about half a second at the worst
CPU_SECONDS = 30  # for longer text
MEMORY_BYTES = 4 * 2**30  # of address space
WAIT_SECONDS = 300  # for CPU_SECONDS on a busy machine
TOO_LONG, TOO_MUCH = "no verdict within the limit", "a comparison took too much memory"  # as for math (grader.py)
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from srt.verifiers.code.deadline import work; work(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))"
)


def bounded(function: Callable[..., Result], *texts: bytes | str) -> Result:
    """`function(*texts)`, of a function that can be imported by its name.

    Raises VerifierError when it exceeds its limits, or fails in its process.
    """
    if sum(map(len, texts)) <= INLINE_BYTES:
        return function(*texts)
    arguments = [json.dumps(sys.path), *map(str, (os.getpid(), CPU_SECONDS, MEMORY_BYTES))]
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    what = f"{function.__name__} of {sum(map(len, texts))} characters"
    with process:
        try:
            task = (function.__module__, function.__qualname__, texts)
            output, errors = process.communicate(pickle.dumps(task), timeout=WAIT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise VerifierError(f"{what}: no result within {WAIT_SECONDS} s", TOO_LONG) from error
        finally:
            process.kill()
    if process.returncode == 0:
        return pickle.loads(output)
    if process.returncode == -signal.SIGXCPU:
        raise VerifierError(f"{what}: no result within {CPU_SECONDS} s of CPU time", TOO_LONG)
    if process.returncode < 0:
        raise VerifierError(f"{what}: killed by signal {-process.returncode}", "a grading worker died")
    message = errors.decode("utf-8", "replace").strip().rpartition("\n")[2][:300]
    if message.startswith("MemoryError"):
        raise VerifierError(f"{what}: out of memory", TOO_MUCH)
    raise VerifierError(f"{what}: {message}")


def work(parent_pid: int, cpu_seconds: int, memory_bytes: int) -> None:
    """In the process: reads a task from standard input and writes its result to standard output."""
    tie_to_parent(parent_pid)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    module, name, texts = pickle.load(sys.stdin.buffer)
    result = getattr(importlib.import_module(module), name)(*texts)
    sys.stdout.buffer.write(pickle.dumps(result))
