"""The seed of a sample depends on its identity only."""

import subprocess
import sys

from srt.contract.seeds import SEED_BITS, sample_seed


def test_literal_seeds():
    """A change here changes every sample of every run."""
    assert sample_seed(0, "problem", 0, "init") == 966_660_393
    assert sample_seed(0, "problem", 0, 0) == 49_162_621


def test_every_part_of_the_identity_matters():
    seeds = {
        sample_seed(run, problem, response, revision)
        for run in range(4)
        for problem in ("1", "11", "a", "")
        for response in range(4)
        for revision in ("init", 0, 1, 10)
    }
    assert len(seeds) == 4 * 4 * 4 * 4


def test_parts_do_not_run_into_each_other():
    identities = [("a", 11), ("a1", 1), ("a11",), ("a", 1, 1)]
    assert len({sample_seed(0, *identity) for identity in identities}) == len(identities)


def test_every_sampler_accepts_them():
    seeds = [sample_seed(0, "x", index) for index in range(1000)]
    assert all(0 <= seed < 2**SEED_BITS for seed in seeds)
    assert max(seeds) > 2 ** (SEED_BITS - 1)  # the whole range is used
    assert len(set(seeds)) == 1000


def test_seeds_are_the_same_in_another_process():
    code = "from srt.contract.seeds import sample_seed; print(sample_seed(3, 'ü', 1))"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"},
    ).stdout
    assert int(printed) == sample_seed(3, "ü", 1)
