#!/usr/bin/env python3
"""Break the core on purpose, one edit at a time, and see whether the tests notice.

    python scripts/mutate.py                      # every mutation that can run here
    python scripts/mutate.py --only 'kl-*' -j 2   # some of them, two at a time
    python scripts/mutate.py --check              # only: every edit applies once, and its tests exist

tests/mutations/*.yaml lists the edits, each with the tests that must fail. They are made in temporary copies of
the files that git knows, never in the working tree. First the tests run on an unchanged copy: what fails or is
skipped there cannot catch anything, and its mutations count as errors or as skipped.

Exit code: 0, all were caught (or skipped, and listed as such); 1, some survived; 2, something could not run.
"""

import argparse
import ast
import contextlib
import fnmatch
import importlib.util
import multiprocessing
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
LISTS = REPOSITORY / "tests" / "mutations"
KEYS = {"name", "file", "old", "new", "tests"}
OPTIONAL = {"environment"}
FORKS = multiprocessing.get_context("forkserver")
# Other people's packages only: ours are what is edited.
PRELOADED = [
    "pytest",
    "torch.distributed.fsdp",
    "transformers.models.qwen3.modeling_qwen3",
    "trl.trainer.sft_trainer",
    "peft",
    "math_verify",
    "omegaconf",
    "beartype",
]
BROKE_DOWN = 99
CAUGHT, SURVIVED, SKIPPED, BROKEN = "caught", "SURVIVED", "skipped", "ERROR"


@dataclass(frozen=True)
class Mutation:
    """`old` occurs exactly once in `file` and is replaced by `new`; at least one of `tests` must then fail.

    environment: variables that the tests need, as NAME=value.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    environment: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    mutation: Mutation
    outcome: str
    seconds: float
    detail: str = ""


def read_mutations() -> list[Mutation]:
    """All lists. Raises ValueError for an entry with other keys, or a name that occurs twice."""
    mutations = []
    for path in sorted(LISTS.glob("*.yaml")):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
            if not KEYS <= set(entry) <= KEYS | OPTIONAL:
                raise ValueError(f"{path.name}, {entry.get('name')}: expected the keys {', '.join(sorted(KEYS))}")
            lists = {name: as_tuple(entry[name]) for name in ("tests", "environment") if name in entry}
            mutations.append(Mutation(**entry | lists))
    names = [mutation.name for mutation in mutations]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"names that occur twice: {', '.join(twice)}")
    return mutations


def as_tuple(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def problems_of(mutation: Mutation) -> list[str]:
    """Why a mutation cannot be made in the working tree; empty when it can."""
    path = REPOSITORY / mutation.file
    if not path.is_file():
        return [f"{mutation.name}: {mutation.file} does not exist"]
    text, found = path.read_text(encoding="utf-8"), []
    if (count := text.count(mutation.old)) != 1:
        found.append(f"{mutation.name}: its `old` occurs {count} times in {mutation.file}, expected once")
    elif mutation.old == mutation.new:
        found.append(f"{mutation.name}: `old` and `new` are the same")
    else:
        try:
            ast.parse(text.replace(mutation.old, mutation.new))
        except SyntaxError as error:
            found.append(f"{mutation.name}: the edit is not Python ({error})")
    return found + [f"{mutation.name}: {test} does not exist" for test in mutation.tests if not test_exists(test)]


def test_exists(test: str) -> bool:
    """A pytest id, e.g. tests/opsd/kl/test_chunks.py::test_a or ...::test_a[parameters]; or a whole file."""
    file, _, name = test.partition("[")[0].partition("::")
    path = REPOSITORY / file
    if not path.is_file():
        return False
    return not name or re.search(rf"^def {re.escape(name)}\(", path.read_text(encoding="utf-8"), re.M) is not None


class Copies:
    """Temporary copies of the tracked files, one for each job."""

    def __init__(self, folder: Path, count: int):
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
        names = [name for name in listed.decode().split("\0") if name and (REPOSITORY / name).is_file()]
        self.free: queue.Queue[Path] = queue.Queue()
        for number in range(count):
            copy = folder / f"copy{number}"
            for name in names:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, copy / name)
            self.free.put(copy)


def start_server() -> None:
    """Prepare the process that runs of tests are forked from: it has imported what takes seconds to import."""
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.pop("PYTHONPATH", None)
    FORKS.set_forkserver_preload([name for name in PRELOADED if importlib.util.find_spec(name.split(".")[0])])


def run_tests(copy: Path, tests: tuple[str, ...], variables: tuple[str, ...], timeout: float) -> tuple[int, str]:
    """pytest's exit code (-1: over `timeout` seconds) and the end of its output, in a copy."""
    with tempfile.NamedTemporaryFile(prefix="mutate-", suffix=".log") as log:
        process = FORKS.Process(target=in_child, args=(copy, tests, variables, log.name))
        process.start()
        process.join(timeout)
        if late := process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)  # the tests' own processes too
            process.join()
        code = -1 if late else process.exitcode
        return BROKE_DOWN if code is None else code, Path(log.name).read_text(errors="replace")[-2000:]


def in_child(copy: Path, tests: tuple[str, ...], variables: tuple[str, ...], log: str) -> None:
    """Run pytest in this process; variables that are read when a module is imported need a new one."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(copy)
    paths = [str(copy / "self-revision-training"), str(copy / "self-distillation")]
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), **dict(v.split("=", 1) for v in variables)}
    arguments = ["-q", "-x", "-rs", "-p", "no:cacheprovider", "--no-header", *tests]
    if variables:
        os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])
    sys.path[:0] = [str(copy), *paths]
    import pytest

    code = pytest.main(arguments)
    sys.stdout.flush()
    os._exit(code)  # threads that a library left behind do not matter


def why_unusable(copy: Path, test: str, variables: tuple[str, ...], timeout: float) -> tuple[str, str] | None:
    """SKIPPED or BROKEN and the reason, for a test that proves nothing here; None for one that passes."""
    code, output = run_tests(copy, (test,), variables, timeout)
    if code != 0:
        return BROKEN, f"{test} fails without any mutation:\n{output}"
    if not re.search(r"\d+ passed", output):
        reasons = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", output, re.M)
        return SKIPPED, reasons[0] if reasons else "all of its tests are skipped"
    return None


def try_mutation(copy: Path, mutation: Mutation, timeout: float) -> Result:
    started = time.monotonic()
    path = copy / mutation.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        code, output = run_tests(copy, mutation.tests, mutation.environment, timeout)
    finally:
        path.write_text(text, encoding="utf-8")
    seconds = time.monotonic() - started
    if code == 0:
        return Result(mutation, SURVIVED, seconds)
    if code in (1, -1):  # failed, or ran for ever
        return Result(mutation, CAUGHT, seconds, "time limit" if code == -1 else "")
    return Result(mutation, BROKEN, seconds, f"{mutation.name}: pytest ended with {code}:\n{output}")


def run(mutations: list[Mutation], jobs: int, timeout: float) -> list[Result]:
    """One line for each as it ends; the results in the order of the lists."""
    start_server()
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder, ThreadPoolExecutor(jobs) as pool:
        copies = Copies(Path(folder), jobs)

        def in_a_copy(function, *arguments):
            copy = copies.free.get()
            try:
                return function(copy, *arguments, timeout)
            finally:
                copies.free.put(copy)

        tests = sorted({(test, mutation.environment) for mutation in mutations for test in mutation.tests})
        print(f"{len(tests)} runs of tests without any mutation ...", flush=True)
        reasons_found = pool.map(lambda test: in_a_copy(why_unusable, *test), tests)
        unusable = dict(zip(tests, reasons_found, strict=True))

        def try_one(mutation: Mutation) -> Result:
            reasons = [reason for test in mutation.tests if (reason := unusable[test, mutation.environment])]
            broken = [reason for reason in reasons if reason[0] == BROKEN]
            if broken or len(reasons) == len(mutation.tests):
                outcome, detail = (broken or reasons)[0]
                result = Result(mutation, outcome, 0.0, detail)
            else:
                result = in_a_copy(try_mutation, mutation)
            late = f" ({result.detail})" if result.outcome == CAUGHT and result.detail else ""
            print(f"{result.outcome:8}  {result.seconds:5.0f} s  {mutation.name}{late}", flush=True)
            return result

        return list(pool.map(try_one, mutations))


def report(results: list[Result]) -> int:
    """Prints what deserves attention, then the counts by list of files; the exit code."""
    for result in results:
        if result.outcome in (SURVIVED, BROKEN, SKIPPED):
            m = result.mutation
            print(f"\n{result.outcome} {m.name} ({m.file})\n- {m.old.strip()}\n+ {m.new.strip()}")
            print(f"  tests: {', '.join(m.tests)}" + (f"\n  {result.detail}" if result.detail else ""))
    outcomes = (CAUGHT, SURVIVED, SKIPPED, BROKEN)
    print(f"\n| file | {' | '.join(outcomes)} |\n|---{'|---' * len(outcomes)}|")
    for file in sorted({result.mutation.file for result in results}):
        counts = [sum(r.outcome == outcome and r.mutation.file == file for r in results) for outcome in outcomes]
        print(f"| {file} | {' | '.join(map(str, counts))} |")
    totals = [sum(result.outcome == outcome for result in results) for outcome in outcomes]
    print(f"| total | {' | '.join(map(str, totals))} |")
    return 2 if totals[3] else int(totals[1] > 0)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", nargs="+", default=["*"], help="names to run, e.g. 'kl-*'")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="mutations at the same time (default: 1)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one run of tests (default: 600)")
    parser.add_argument("--check", action="store_true", help="run nothing; check that every edit applies")
    parser.add_argument("--list", action="store_true", help="run nothing; print the mutations")
    arguments = parser.parse_args(argv)
    mutations = [m for m in read_mutations() if any(fnmatch.fnmatch(m.name, only) for only in arguments.only)]
    if arguments.list:
        for m in mutations:
            print(f"{m.name:45} {m.file}")
        return 0
    if not mutations:
        print(f"error: no mutation is called {' or '.join(arguments.only)}", file=sys.stderr)
        return 2
    if found := [problem for mutation in mutations for problem in problems_of(mutation)]:
        print("\n".join(found), file=sys.stderr)
        return 2
    if arguments.check:
        print(f"{len(mutations)} mutations apply, and their tests exist")
        return 0
    return report(run(mutations, arguments.jobs, arguments.timeout))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
