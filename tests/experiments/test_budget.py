"""What a model of the one-GPU experiment is charged: samples, tokens and GPU seconds of all that made it."""

import pytest

from experiments.one_gpu.budget import Budget, budget_of
from experiments.one_gpu.plan import BASELINE_FILE, PLAN, Layout, load_jobs
from srt.common.files import write_json, write_jsonl
from srt.contract.records import Response, Revision, as_line, pack_ids


@pytest.fixture
def layout(tmp_path):
    """A collection of two responses (60 tokens) and a revision (20), 80 s on two GPUs, and who trains on it."""
    lines = [
        Response(0, 0, "p", "", "x", "3", "3", "", 20, True, "3", "", "stop", 0),
        Response(0, 1, "p", "", "x", "3", "7", "", 40, False, "7", "", "stop", 0),
        Revision(0, 1, 0, "wrong", "3", "", 20, True, "3", "", "stop", 0),
    ]
    write_jsonl(tmp_path / "collect" / "samples" / "attempts.jsonl", map(as_line, lines))
    write_jsonl(tmp_path / "rejection" / BASELINE_FILE, [{"y_ids": pack_ids([1, 2, 3])}])
    write_json(tmp_path / "rft" / "training_log.json", [{"epoch": 2.0}])
    write_json(tmp_path / "srt" / "stage2" / "training_log.json", [{"num_tokens": 500}])
    write_jsonl(
        tmp_path / "sd_zero_from_rft" / "metrics.jsonl",
        [{"rollouts": 4, "response_tokens": 10.0, "trained_tokens": 40}],
    )
    for job, (seconds, gpus) in {
        "collect": (80, 2), "half_right": (3, 1), "rejection": (1, 0), "srt": (10, 0.5), "rft": (7, 1),
    }.items():  # fmt: skip
        write_json(tmp_path / job / "job.json", {"seconds": seconds, "gpus": gpus})
    return Layout(tmp_path, "base")


def test_the_method_is_charged_the_whole_collection(layout):
    expected = Budget(samples=3, generated_tokens=80, trained_tokens=500, gpu_seconds=160 + 3 + 5)
    assert budget_of("srt", load_jobs(PLAN), layout) == expected


def test_a_rival_is_charged_the_responses_and_not_the_revisions_that_it_never_reads(layout):
    expected = Budget(samples=2, generated_tokens=60, trained_tokens=6, gpu_seconds=160 * 60 / 80 + 7)
    assert budget_of("rft", load_jobs(PLAN), layout) == expected
    assert budget_of("sd_zero_from_rft", load_jobs(PLAN), layout) == expected + Budget(4, 40, 40)


def test_the_base_model_is_charged_nothing(layout):
    assert budget_of("base", load_jobs(PLAN), layout) == Budget()
