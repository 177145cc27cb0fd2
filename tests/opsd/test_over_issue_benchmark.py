"""The benchmark of OVER_ISSUE runs, and all sides train on equally many responses."""

import json

from tests.opsd.helpers.benchmarks import run_benchmark


def test_both_sides_make_all_steps_and_only_one_trains_on_older_tokens(tiny_checkpoint, tmp_path):
    sizes = "prompts=4 steps=3 median=20 max_tokens=40 prompt_tokens=80 tokens_per_micro_batch=400".split()
    files = [f"model={tiny_checkpoint}", f"json={tmp_path / 'out.json'}"]
    printed = run_benchmark("over_issue", *files, *sizes, "over_issue=0.5", "sampler=transformers")
    sides = json.loads((tmp_path / "out.json").read_text())["sides"]
    assert list(sides) == ["sync", "0.5"]
    assert [side["trained_responses"] for side in sides.values()] == [12, 12]
    assert sides["sync"]["stale_tokens"] == 0 < sides["0.5"]["stale_tokens"]
    assert [line.split()[0] for line in printed.splitlines()[-2:]] == ["sync", "0.5"]
