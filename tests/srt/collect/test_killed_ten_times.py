"""A collector that is really killed, again and again, with a model whose samples depend on the seeds only."""

import multiprocessing
import random
import time
from pathlib import Path

import pytest

from quickstart.tokenizer import build_tokenizer
from srt.collect.collector import Collector, CollectorConfig
from srt.collect.selection import Selection
from srt.common.files import read_jsonl
from srt.contract.layout import Layout, PromptFormat
from srt.contract.phrases import PHRASE_SETS
from srt.contract.records import Problem
from srt.verifiers.math.verify import verify_math
from srt.verifiers.types import VerifierError
from tests.srt.helpers.scripted import ScriptedSampler

KILLS = 10
PROBLEMS = [Problem(id=f"p{n}", x=f"x = {n % 20}", answer="7" if n % 9 else r"\frac{1}{0}") for n in range(60)]
MODEL = {"variety": 3, "loop_share": 0.2, "truncated_share": 0.1}
CONFIG = CollectorConfig(
    num_responses=2,
    num_revisions=2,
    revise=frozenset({0, 1}),
    revise_truncated=True,
    max_tokens=400,
    max_model_len=1000,
    max_in_flight=8,
    seed=0,
    selection=Selection(70),
    clean=True,
)


class InlineGrader:
    """The verifier without its pool, whose workers would take longer to start than the whole test."""

    def __init__(self):
        self.graded = []

    def submit(self, key, text, problem, finish_reason):
        try:
            verdict = verify_math("" if finish_reason == "length" else text, problem.answer)
        except VerifierError as error:
            verdict = error
        self.graded.append((key, verdict))

    def poll(self, timeout=0.0):
        graded, self.graded = self.graded, []
        return graded


@pytest.fixture(scope="module")
def layout():
    tokenizer = build_tokenizer()
    return Layout(tokenizer, PHRASE_SETS["qwen"], PromptFormat(prompt_suffix=""), [tokenizer.eos_token_id])


class SlowSampler(ScriptedSampler):
    """Slow enough that every kill comes before the end."""

    def poll(self):
        time.sleep(0.01)
        return super().poll()


def collect(layout: Layout, folder: Path, order: int) -> list[dict]:
    sampler = SlowSampler(layout, order, **MODEL)
    collector = Collector(PROBLEMS, layout, sampler, InlineGrader(), CONFIG, folder)
    collector.run()
    collector.close()
    return collector.tuples()


def size(folder: Path) -> int:
    logs = [folder / "attempts.jsonl", folder / "set_aside.jsonl"]
    return sum(log.stat().st_size for log in logs if log.exists())


def test_killed_ten_times_it_gives_the_tuples_of_a_run_that_was_never_killed(layout, tmp_path):
    whole = collect(layout, tmp_path / "whole", order=0)
    assert len(whole) == 70
    steps = random.Random(0)
    folder, written = tmp_path / "killed", size(tmp_path / "whole")
    for kill in range(KILLS):
        enough = size(folder) + steps.randrange(written // (2 * KILLS))  # bytes: anywhere in a line
        process = multiprocessing.get_context("fork").Process(target=collect, args=(layout, folder, kill))
        process.start()
        while size(folder) <= enough:
            assert process.is_alive(), "it ended before it was killed"
            time.sleep(0.0002)
        process.kill()
        process.join()
        assert process.exitcode == -9
    assert collect(layout, folder, order=99) == whole
    for log, part in (("attempts.jsonl", "revision_idx"), ("set_aside.jsonl", "key")):
        lines = read_jsonl(folder / log)
        keys = [str((line.get("problem_idx"), line.get("response_idx"), line.get(part))) for line in lines]
        assert len(lines) > 10 and len(keys) == len(set(keys))
