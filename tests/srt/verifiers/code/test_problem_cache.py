"""A problem goes to the judging process once, whatever the number of responses to it."""

import pickle

import pytest

from srt.verifiers.code.grader import CodeGrader
from srt.verifiers.code.problem_cache import ProblemReceiver, ProblemSender
from srt.verifiers.types import VerifierError
from tests.srt.helpers.code_cases import CONFIG, doubling, fenced


def large(name):
    problem = doubling()
    problem.tests.append({"input": name * 10**6, "output": "x"})
    return problem


def test_messages_after_the_first_are_small_and_mean_the_same_problem():
    sender, receiver = ProblemSender(), ProblemReceiver()
    first, second = large("1"), large("2")
    sizes, received = [], []
    for number, problem in enumerate([first, first, second, first, second]):
        data = pickle.dumps(sender.message(number, "response", problem))
        sizes.append(len(data))
        received.append(receiver.problem(pickle.loads(data)))
    assert [size > 10**6 for size in sizes] == [True, False, True, False, False]
    assert received == [first, first, second, first, second]
    assert received[0] is received[1] is received[3]


def test_the_least_recent_problems_are_forgotten():
    sender, receiver = ProblemSender(cache_bytes=25 * 10**5), ProblemReceiver()
    first, second, third = (large(name) for name in "123")
    for problem in (first, second, first, third, first, second, third):
        assert receiver.problem(sender.message(1, "", problem)) == problem
    assert len(receiver._problems) == 2
    alone = ProblemSender(cache_bytes=1)  # smaller than any problem: the last one is kept
    assert [alone.message(1, "", problem).problem is None for problem in (first, first, second)] == [
        False,
        True,
        False,
    ]


@pytest.mark.bwrap
def test_the_grader_sends_a_problem_once(monkeypatch):
    sent = []
    with CodeGrader(1, CONFIG) as grader:
        send = grader._connection.send
        monkeypatch.setattr(grader._connection, "send", lambda message: (sent.append(message), send(message)))
        problem = large("1")
        outcomes = grader.grade_all([(fenced(f"print({n})"), problem, "stop") for n in range(8)])
    assert not any(isinstance(outcome, VerifierError) or outcome.correct for outcome in outcomes)
    assert [message.problem is not None for message in sent] == [True] + 7 * [False]
