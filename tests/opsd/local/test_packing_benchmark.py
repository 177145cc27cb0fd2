"""The benchmark of padded and packed passes runs, and both compute the same."""

import json

import pytest

from tests.opsd.helpers.benchmarks import run_benchmark


def test_both_variants_score_and_train_the_same_pairs(tiny_checkpoint, tmp_path):
    sizes = ["samples=20,0.5", "prompts=5", "max_tokens=200", "rounds=1", "repeats=1"]
    files = [f"model={tiny_checkpoint}", f"json={tmp_path / 'out.json'}"]
    printed = run_benchmark("packing", *files, *sizes, "tokens_per_micro_batch=400")
    figures = json.loads((tmp_path / "out.json").read_text())
    padded, packed = figures["padded"], figures["packed"]
    assert packed["kl"] == pytest.approx(padded["kl"], rel=1e-3) and padded["kl"] > 1e-3
    assert packed["computed"] == 1 < padded["computed"]
    assert packed["micro_batches"] <= padded["micro_batches"]
    for row in (padded, packed):
        assert row["forward"]["seconds"] > 0 < row["update"]["seconds"]
    assert [line.split()[:2] for line in printed.splitlines()[-4:]] == [
        ["padded", "forward"],
        ["packed", "forward"],
        ["padded", "update"],
        ["packed", "update"],
    ]
