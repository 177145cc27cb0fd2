"""Seeds: a sample's seed follows from what the sample is, never from batch shape or scheduling."""

import hashlib

SEED_BITS = 31  # every sampler accepts these


def sample_seed(run_seed: int, *identity: str | int) -> int:
    """The seed of one sample, e.g. sample_seed(seed, problem.id, response_idx, revision_idx)."""
    text = "\x1f".join(str(part) for part in (run_seed, *identity))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - SEED_BITS)
