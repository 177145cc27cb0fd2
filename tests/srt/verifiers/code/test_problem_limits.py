"""The limits that problems state, and what programs within them may do."""

import pytest

from srt.contract.records import Problem
from srt.verifiers.code.judge import CodeJudge
from srt.verifiers.code.languages import BY_NAME, PYTHON, find_toolchain
from srt.verifiers.code.sandbox.limits import MAX_CPU_SECONDS, MAX_MEMORY_MB, wall_seconds
from srt.verifiers.types import VerifierError
from tests.srt.helpers.code_cases import CONFIG, doubling, fenced, judge

pytestmark = pytest.mark.bwrap


def test_a_program_that_sleeps_is_ended_soon():
    verdict = judge().judge(fenced("import time\ntime.sleep(60)"), doubling(limits={"time_seconds": 0.3}))
    assert "wall-clock limit: 3.9 s" in verdict.reason
    assert wall_seconds(2.0) == 9.0


def test_semaphores_of_multiprocessing():
    program = """
import multiprocessing
def work(n): return 2 * n
if __name__ == "__main__":
    lock = multiprocessing.Lock()
    with lock, multiprocessing.Pool(2) as pool: print(pool.map(work, [int(input())])[0])
"""
    assert judge().judge(fenced(program), doubling()).correct


def test_threads_with_the_stacks_of_their_language_fit():
    program = """
#include <iostream>
#include <thread>
#include <vector>
int main() {
  int n; std::cin >> n;
  std::vector<std::thread> threads;
  int parts[8] = {0};
  for (int i = 0; i < 8; i++) threads.emplace_back([&, i] { parts[i] = i ? 0 : 2 * n; });
  for (auto &thread : threads) thread.join();
  int sum = 0; for (int part : parts) sum += part;
  std::cout << sum;
}
"""
    verdict = judge().judge(fenced(program, "cpp"), doubling(limits={"memory_mb": 256}))
    assert verdict.correct, verdict


def test_limits_beyond_reason_are_lowered_and_limits_that_are_none_refused():
    limits = judge().limits(doubling(limits={"time_seconds": 1e30, "memory_mb": 2.0**28}), PYTHON)
    assert limits.cpu_seconds < MAX_CPU_SECONDS + 1 and limits.memory_mb == MAX_MEMORY_MB
    assert judge().judge(fenced("print(2 * int(input()))"), doubling(limits={"memory_mb": 1e30})).correct
    for value in (float("nan"), 0, -1):
        with pytest.raises(VerifierError, match="is no limit"):
            judge().limits(doubling(limits={"time_seconds": value}), PYTHON)


def test_a_file_name_that_cannot_be_one_is_our_failure():
    problem = Problem("p", "?", "", mode="code", tests=doubling().tests, input_file="n" * 300)
    with pytest.raises(VerifierError, match="no file can be called"):
        CodeJudge(CONFIG, judge().sandbox).judge(fenced("print(2)"), problem)


def test_a_class_name_that_is_too_long_for_a_file_does_not_compile():
    program = f"public class {'N' * 300} {{ public static void main(String[] a) {{ }} }}"
    if find_toolchain(BY_NAME["Java"]) is None:
        pytest.skip("no Java compiler")
    assert "is too long" in judge().judge(fenced(program, "java"), doubling()).reason
