"""Collection with transformers: tokens and log-probs are those of the model, for every family."""

import numpy as np
import pytest
import torch

from srt.common.models import load_model
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.transformers import TransformersSampler
from tests.families.models import OTHER_LOGITS_WHEN_CACHED

TEMPERATURE = 0.7
PROMPTS = [[5, 9, 33], [17, 4, 88, 120, 7, 7, 64, 31, 90], [101, 3, 56, 72, 11, 12]]  # one batch, so padded
NEW_TOKENS = 8


@torch.no_grad()
def test_samples_follow_the_models_own_distribution(family, checkpoint, naive_logprobs, request):
    if family in OTHER_LOGITS_WHEN_CACHED:
        request.applymarker(pytest.mark.xfail(strict=True, reason="transformers' cache of this family"))
    model = load_model(str(checkpoint), "float32", "cpu").eval()
    sampler = TransformersSampler(model, 0, SamplingConfig(TEMPERATURE, 1.0, (2,)), max_batch=8)
    requests = [SampleRequest(prompt, seed, NEW_TOKENS) for seed, prompt in enumerate(PROMPTS)]
    for request, sample in zip(requests, sample_all(sampler, requests), strict=True):
        ids, start = request.prompt_ids + sample.token_ids, len(request.prompt_ids) - 1
        chosen = torch.tensor(sample.token_ids)[:, None]
        expected = naive_logprobs(ids)[start:].gather(-1, chosen)[:, 0]
        torch.testing.assert_close(torch.tensor(sample.logprobs).double(), expected, atol=1e-3, rtol=0)
        # Each token is the one at the seed's random number in the cumulative distribution at the temperature.
        cumulative = naive_logprobs(ids, TEMPERATURE)[start:].exp().cumsum(-1)
        draws = np.random.Generator(np.random.Philox(request.seed)).random(NEW_TOKENS, np.float32)
        for draw, token, distribution in zip(draws, sample.token_ids, cumulative, strict=False):
            below = float(distribution[token - 1]) if token else 0.0
            assert below - 1e-4 <= draw <= float(distribution[token]) + 1e-4
