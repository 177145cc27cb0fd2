"""The benchmark of vLLM's start runs, and chooses the sizes of its CUDA graphs."""

import json

import pytest

from tests.opsd.helpers.benchmarks import BENCHMARKS, run_benchmark


@pytest.mark.vllm
def test_each_variant_starts_an_engine_that_samples(tiny_checkpoint, tmp_path):
    sizes = ["prompts=4", "lengths=20,0.8", "max_tokens=40", "prompt_tokens=300", "sampler_batch=4"]
    files = [f"model={tiny_checkpoint}", f"json={tmp_path / 'out.json'}"]
    run_benchmark("vllm_start", *files, *sizes, "variants=cold,elsewhere")
    variants = json.loads((tmp_path / "out.json").read_text())["variants"]
    assert list(variants) == ["cold", "elsewhere"]
    for made in variants.values():
        assert made["start"] > 0 < made["tokens_per_second"]


def test_few_sizes_end_at_the_largest_batch(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from vllm_start import few_sizes

    assert few_sizes(24) == [1, 2, 4, 8, 16, 24]
    assert few_sizes(256) == [1, 2, 4, 8, 16, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256]
