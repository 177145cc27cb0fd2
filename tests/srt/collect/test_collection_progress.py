"""The progress of a collection knows its end: the target or the problems; that of an evaluation, its samples."""

import pytest

from quickstart.tokenizer import build_tokenizer
from srt.collect.collector import Collector, CollectorConfig
from srt.collect.selection import Selection
from srt.contract.layout import Layout, PromptFormat
from srt.contract.phrases import PHRASE_SETS
from srt.contract.records import Problem
from srt.sampling.base import SamplingConfig
from srt.verifiers.math.grader import MathGrader
from tests.srt.helpers.scripted import ScriptedSampler

PROBLEMS = [Problem(id=f"p{n}", x=f"x = {n % 10}", answer="7", source="here") for n in range(12)]
GREEDY = SamplingConfig(0.0, 1.0, (2,))


@pytest.fixture
def collect(tmp_path, capsys):
    """collect(name, ...) -> the collector of a whole run in that folder, and (title, percent, figures) of the last
    line of progress. No terminal is attached, so lines are printed."""
    tokenizer = build_tokenizer()
    layout = Layout(tokenizer, PHRASE_SETS["qwen"], PromptFormat(prompt_suffix=""), [tokenizer.eos_token_id])

    def run(name, **changes):
        config = {
            "num_responses": 2,
            "num_revisions": 1,
            "revise": frozenset({0, 1}),
            "revise_truncated": True,
            "max_tokens": 50,
            "max_model_len": 500,
            "max_in_flight": 4,
            "seed": 0,
            "selection": None,
        }
        with MathGrader(num_workers=1, time_limit_seconds=30) as grader:
            sampler = ScriptedSampler(layout, 0)
            config = CollectorConfig(**config | changes)
            collector = Collector(PROBLEMS, layout, sampler, grader, config, tmp_path / name)
            collector.run()
            collector.close()
        title, _, line = capsys.readouterr().err.splitlines()[-1].partition(": ")
        percent, *figures = line.split(", ")
        return collector, (title, percent, figures)

    return run


def test_a_collection_that_runs_out_of_problems_ends_at_100_percent(collect):
    """And not at the share of a target that it could never reach."""
    collector, (title, percent, figures) = collect("few", selection=Selection(1000), revise=frozenset({0}))
    kept = collector.attempts.stats.kept
    assert (title, percent, figures[0]) == ("D_revision", "100%", f"{kept}/1,000 kept") and 0 < kept < 1000
    assert "12/12 problems" in figures


@pytest.mark.parametrize(("greedy", "responses"), [(None, 24), (GREEDY, 36)])
def test_an_evaluation_counts_responses(collect, tmp_path, monkeypatch, greedy, responses):
    collector, (title, percent, figures) = collect("whole", greedy=greedy)
    assert (title, percent, figures[0]) == ("evaluation", "100%", f"{responses}/{responses} responses")
    assert collector._fraction() == 1.0
    log = (tmp_path / "whole" / "attempts.jsonl").read_text().splitlines()
    lines = [line for line in log if "revision_idx" not in line][: responses // 2]
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "attempts.jsonl").write_text("\n".join(lines) + "\n")
    shown = []
    fraction = Collector._fraction
    monkeypatch.setattr(Collector, "_fraction", lambda self: shown.append(fraction(self)) or shown[-1])
    collect("half", greedy=greedy)
    assert shown[0] == len(lines) / (responses + 24)  # half of the responses, and none of the 24 revisions


def test_samples_that_are_set_aside_are_done_and_so_are_revisions_that_will_never_be(collect, tmp_path):
    collector, (_, percent, figures) = collect("long", max_model_len=4, greedy=GREEDY)  # no prompt fits
    assert (percent, figures[0]) == ("100%", "0/36 responses")
    assert collector._fraction() == 1.0
