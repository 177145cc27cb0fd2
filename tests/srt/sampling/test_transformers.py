"""Sampling with transformers: determined by the seed, from the right distribution, ended correctly."""

import json
import shutil

import pytest
import torch

from srt.common.models import load_model, load_tokenizer
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.transformers import TransformersSampler

PROMPTS = ["x = 1 [A] + 2", "x = 9", "A 1 + 2 = 3\nB 3 * 4 = 2\n", "\\boxed{"]


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return load_tokenizer(str(tiny_checkpoint))


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_model(str(tiny_checkpoint), "float32").eval()


@pytest.fixture(scope="module")
def prompts(tokenizer):
    """Of different lengths, so that batches are padded."""
    return [tokenizer.encode(text) for text in PROMPTS]


def new_sampler(model, temperature=1.0, top_p=1.0, eot_ids=(2,), max_batch=64):
    return TransformersSampler(model, 0, SamplingConfig(temperature, top_p, eot_ids), max_batch)


@torch.no_grad()
def logits_after(model, ids):
    """(len(ids), V) logits of one unpadded forward pass."""
    return model(input_ids=torch.tensor([ids])).logits[0].float()


# Identity -----------------------------------------------------------------------------------------------


def test_same_seed_same_sample_whatever_the_batch_around_it(model, prompts):
    request = SampleRequest(prompts[0], seed=5, max_tokens=20)
    others = [SampleRequest(p, seed, 8 + 9 * seed) for seed, p in enumerate(prompts * 2)]
    (alone,) = sample_all(new_sampler(model), [request])
    assert sample_all(new_sampler(model), [*others[:5], request, *others[5:]])[5].token_ids == alone.token_ids
    assert sample_all(new_sampler(model, max_batch=2), [*others, request])[-1].token_ids == alone.token_ids


def test_a_request_may_bring_its_own_sampling_whatever_is_queued_beside_it(model, prompts):
    ways = [None, SamplingConfig(0.0, 1.0, (2,)), SamplingConfig(1.3, 0.5, (2,))]
    mixed = [SampleRequest(prompts[n % 4], n, 12, sampling=ways[n % 3]) for n in range(9)]
    samples = sample_all(new_sampler(model), mixed)
    for sample, request in zip(samples, mixed, strict=True):
        way = request.sampling or SamplingConfig(1.0, 1.0, (2,))
        own = TransformersSampler(model, 0, way, 64)
        (alone,) = sample_all(own, [SampleRequest(request.prompt_ids, request.seed, 12)])
        assert sample.token_ids == alone.token_ids


def test_different_seeds_differ(model, prompts):
    samples = sample_all(new_sampler(model), [SampleRequest(prompts[0], seed, 12) for seed in range(20)])
    assert len({tuple(sample.token_ids) for sample in samples}) == 20


def test_a_shorter_limit_gives_a_prefix_of_the_same_sample(model, prompts):
    sampler = new_sampler(model, eot_ids=(0,))
    long, short = (sample_all(sampler, [SampleRequest(prompts[1], 3, n)])[0] for n in (24, 7))
    assert long.token_ids[:7] == short.token_ids


def test_the_random_state_of_torch_is_neither_used_nor_changed(model, prompts):
    requests = [SampleRequest(prompts[0], 1, 10)]
    torch.manual_seed(0)
    first = sample_all(new_sampler(model), requests)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert sample_all(new_sampler(model), requests)[0].token_ids == first[0].token_ids
    assert torch.equal(torch.get_rng_state(), before)


# Distribution -------------------------------------------------------------------------------------------


def test_logprobs_are_those_of_the_model_at_any_temperature(model, prompts):
    for temperature, top_p in ((1.0, 1.0), (0.7, 0.5), (0.0, 1.0)):
        requests = [SampleRequest(p, seed, 15) for seed, p in enumerate(prompts)]
        for request, sample in zip(
            requests, sample_all(new_sampler(model, temperature, top_p), requests), strict=True
        ):
            logits = logits_after(model, request.prompt_ids + sample.token_ids)
            expected = torch.log_softmax(logits, -1)[len(request.prompt_ids) - 1 : -1]
            expected = expected.gather(-1, torch.tensor(sample.token_ids)[:, None])[:, 0]
            assert len(sample.logprobs) == len(sample.token_ids)
            torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=1e-4, rtol=0)


def test_temperature_0_is_greedy(model, prompts):
    requests = [SampleRequest(p, seed, 10) for seed, p in enumerate(prompts)]
    for request, sample in zip(requests, sample_all(new_sampler(model, 0.0, 0.3), requests), strict=True):
        ids = list(request.prompt_ids)
        for token in sample.token_ids:
            assert logits_after(model, ids)[-1].argmax().item() == token
            ids.append(token)


def first_tokens(model, prompt, draws, **config):
    requests = [SampleRequest(prompt, seed, 1) for seed in range(draws)]
    samples = sample_all(new_sampler(model, max_batch=draws, **config), requests)
    return torch.bincount(torch.tensor([s.token_ids[0] for s in samples]), minlength=model.config.vocab_size)


def chi_square_z(counts, probabilities):
    """How many standard deviations the chi-square statistic lies above its mean; rare tokens are pooled."""
    expected = probabilities.double() * counts.sum()
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]]).double()
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    observed, expected = observed[expected > 0], expected[expected > 0]
    freedom = len(expected) - 1
    statistic = ((observed - expected) ** 2 / expected).sum()
    return ((statistic - freedom) / (2 * freedom) ** 0.5).item()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_many_seeds_follow_the_softmax(model, prompts, temperature):
    logits = logits_after(model, prompts[0])[-1]
    counts = first_tokens(model, prompts[0], 4000, temperature=temperature)
    assert chi_square_z(counts, torch.softmax(logits / temperature, -1)) < 5
    assert chi_square_z(counts, torch.softmax(logits / (2 * temperature), -1)) > 10  # the test can fail


@pytest.mark.parametrize("top_p", [0.3, 0.9])
def test_top_p_keeps_the_smallest_set_that_reaches_it(model, prompts, top_p):
    probs, order = torch.softmax(logits_after(model, prompts[0])[-1], -1).sort(descending=True)
    kept = int((probs.cumsum(0) < top_p).sum()) + 1
    truncated = torch.zeros_like(probs)
    truncated[order[:kept]] = probs[:kept] / probs[:kept].sum()
    counts = first_tokens(model, prompts[0], 4000, top_p=top_p)
    assert counts[truncated == 0].sum() == 0
    assert chi_square_z(counts, truncated) < 5


def test_a_tiny_top_p_is_greedy(model, prompts):
    counts = first_tokens(model, prompts[0], 200, top_p=1e-6)
    assert counts.argmax() == logits_after(model, prompts[0])[-1].argmax() and counts.max() == 200


def test_the_second_token_is_drawn_independently_of_the_first(model, prompts):
    """Given the first token, the second follows the softmax: each position has its own random number."""
    requests = [SampleRequest(prompts[0], seed, 2) for seed in range(4000)]
    samples = sample_all(new_sampler(model, top_p=0.2, eot_ids=(0,), max_batch=4000), requests)
    pairs = torch.tensor([sample.token_ids for sample in samples if len(sample.token_ids) == 2])
    first = pairs[:, 0].mode().values.item()
    seconds = torch.bincount(pairs[pairs[:, 0] == first, 1], minlength=model.config.vocab_size)
    probs, order = torch.softmax(logits_after(model, [*prompts[0], first])[-1], -1).sort(descending=True)
    kept = int((probs.cumsum(0) < 0.2).sum()) + 1
    truncated = torch.zeros_like(probs)
    truncated[order[:kept]] = probs[:kept] / probs[:kept].sum()
    assert seconds.sum() > 50
    assert chi_square_z(seconds, truncated) < 5


# The end of a response ----------------------------------------------------------------------------------


def greedy_continuation(model, prompt, length):
    return sample_all(new_sampler(model, 0.0, eot_ids=(0,)), [SampleRequest(prompt, 0, length)])[0].token_ids


def test_a_response_ends_with_its_end_of_turn_token(model, prompts):
    expected = greedy_continuation(model, prompts[0], 12)
    eot = expected[5]
    first = expected.index(eot)
    (sample,) = sample_all(new_sampler(model, 0.0, eot_ids=(0, eot)), [SampleRequest(prompts[0], 0, 12)])
    assert sample.token_ids == expected[: first + 1]
    assert sample.finish_reason == "stop"
    assert len(sample.logprobs) == first + 1


def test_a_response_that_is_cut_off_has_no_end_of_turn_token(model, prompts):
    requests = [SampleRequest(p, seed, 1 + 4 * seed) for seed, p in enumerate(prompts)]
    for request, sample in zip(requests, sample_all(new_sampler(model, eot_ids=(0,)), requests), strict=True):
        if sample.finish_reason == "length":
            assert len(sample.token_ids) == request.max_tokens and 0 not in sample.token_ids
        else:
            assert sample.token_ids.index(0) == len(sample.token_ids) - 1


def test_an_end_of_turn_beyond_a_samples_own_limit_is_not_reached(model, prompts):
    """The other request of the batch goes on for longer."""
    drawn = [greedy_continuation(model, prompt, 24) for prompt in prompts]
    prompt, ids, first = next(
        (prompt, ids, position)
        for prompt, ids in zip(prompts, drawn, strict=True)
        for position in range(2, 24)
        if ids.index(ids[position]) == position
    )
    requests = [SampleRequest(prompt, 0, limit) for limit in (first, 24)]
    short, long = sample_all(new_sampler(model, 0.0, eot_ids=(0, ids[first])), requests)
    assert (short.token_ids, short.finish_reason) == (ids[:first], "length")
    assert (long.token_ids, long.finish_reason) == (ids[: first + 1], "stop")


def test_an_end_of_turn_at_the_limit_is_a_stop(model, prompts):
    expected = greedy_continuation(model, prompts[0], 12)
    eot = expected[0]
    (sample,) = sample_all(new_sampler(model, 0.0, eot_ids=(eot,)), [SampleRequest(prompts[0], 0, 1)])
    assert (sample.token_ids, sample.finish_reason) == ([eot], "stop")


def test_the_models_own_eos_does_not_end_a_response(model, prompts):
    """Only `eot_ids` do: here the checkpoint's eos is sampled, and sampling continues."""
    assert model.generation_config.eos_token_id == 2
    requests = [SampleRequest(prompts[0], seed, 40) for seed in range(64)]
    samples = sample_all(new_sampler(model, eot_ids=(0,)), requests)
    assert any(2 in sample.token_ids[:-1] for sample in samples)


# The checkpoint's defaults ------------------------------------------------------------------------------

DEFAULTS = {
    "do_sample": True,
    "temperature": 0.1,
    "top_k": 1,
    "top_p": 0.1,
    "min_p": 0.5,
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 6,
    "suppress_tokens": list(range(50)),
    "max_length": 3,
    "eos_token_id": 1,
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_defaults_of_the_checkpoint_do_not_interfere(
    tiny_checkpoint, tmp_path, model, prompts, temperature
):
    opinionated = shutil.copytree(tiny_checkpoint, tmp_path / "opinionated")
    path = opinionated / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | DEFAULTS))
    config = SamplingConfig(temperature, 1.0, (2,))
    sampler = TransformersSampler.from_checkpoint(str(opinionated), config, max_batch=8, dtype="float32")
    requests = [SampleRequest(p, seed, 20) for seed, p in enumerate(prompts)]
    assert sample_all(sampler, requests) == sample_all(new_sampler(model, temperature), requests)
    # They are still what the model saves with its next checkpoint.
    assert sampler.model.generation_config.repetition_penalty == 5.0


def test_a_model_in_training_is_sampled_in_evaluation_mode_and_returned_to_training(model, prompts):
    requests = [SampleRequest(prompts[0], 0, 10)]
    expected = sample_all(new_sampler(model), requests)
    model.train()
    try:
        assert sample_all(new_sampler(model), requests) == expected
        assert model.training
    finally:
        model.eval()


@pytest.mark.parametrize("pad_id", [0, 2])
def test_prompts_may_contain_the_padding_token(model, prompts, pad_id):
    """Without a padding token, the end of turn is used for padding, and prompts contain it as well."""
    requests = [SampleRequest([pad_id, *prompt, pad_id, 90], 7, 12) for prompt in prompts]
    batched, alone = (
        sample_all(TransformersSampler(model, pad_id, SamplingConfig(0.0, 1.0, (2,)), max_batch), requests)
        for max_batch in (4, 1)
    )
    for ours, theirs in zip(batched, alone, strict=True):
        assert ours.token_ids == theirs.token_ids
        torch.testing.assert_close(torch.tensor(ours.logprobs), torch.tensor(theirs.logprobs), atol=1e-4, rtol=0)


# The queue ----------------------------------------------------------------------------------------------


def test_a_batch_ends_with_the_first_that_end_and_its_rest_goes_on_as_if_it_had_not(model, prompts):
    requests = [SampleRequest(prompts[n % 4], n, limit) for n, limit in enumerate((20, 4, 12, 4, 9))]
    expected = sample_all(new_sampler(model, eot_ids=(0,)), requests)
    sampler = new_sampler(model, eot_ids=(0,))
    for key, request in enumerate(requests):
        sampler.submit(key, request)
    polled = [sampler.poll(1), sampler.poll(2), sampler.poll()]
    assert [[key for key, _ in batch] for batch in polled] == [[1, 3], [4, 2], [0]]
    for key, sample in (item for batch in polled for item in batch):
        assert (sample.token_ids, sample.finish_reason) == (expected[key].token_ids, "length")
        assert sample.logprobs == pytest.approx(expected[key].logprobs, abs=1e-4)
    assert sampler.pending == 0


def test_an_end_of_turn_also_counts_among_the_first_that_end(model, prompts):
    drawn = greedy_continuation(model, prompts[0], 12)
    eot = next(token for n, token in enumerate(drawn) if n >= 3 and token not in drawn[:n])
    sampler = new_sampler(model, 0.0, eot_ids=(0, eot))
    for key, prompt in enumerate([prompts[0], prompts[3]]):
        sampler.submit(key, SampleRequest(prompt, 0, 40))
    [(key, sample)] = sampler.poll(1)
    assert (key, sample.finish_reason) == (0, "stop")
    [(_, rest)] = sampler.interrupt()
    assert len(rest.token_ids) == len(sample.token_ids)


def test_what_is_interrupted_is_the_beginning_of_the_sample(model, prompts):
    requests = [SampleRequest(prompts[n], n, limit) for n, limit in enumerate((20, 4, 12))]
    expected = sample_all(new_sampler(model, eot_ids=(0,)), requests)
    sampler = new_sampler(model, eot_ids=(0,), max_batch=2)
    for key, request in enumerate(requests):
        sampler.submit(key, request)
    sampler.poll(1)
    stopped = dict(sampler.interrupt())
    assert {key: len(sample.token_ids) for key, sample in stopped.items()} == {0: 4, 2: 0}
    assert stopped[0].token_ids == expected[0].token_ids[:4]
    assert {sample.finish_reason for sample in stopped.values()} == {"interrupted"}
    assert sampler.pending == 0 and sampler.poll() == []


def test_samples_come_with_their_keys_in_batches_of_similar_length(model):
    sampler = new_sampler(model, 0.0, max_batch=2)
    assert sampler.pending == 0 and list(sampler.poll()) == []
    prompts = [[5] * length for length in (4, 20, 21, 5)]
    for index, prompt in enumerate(prompts):
        sampler.submit(("key", index, None), SampleRequest(prompt, 0, 5))
    assert sampler.pending == 4
    polled = [list(sampler.poll()), list(sampler.poll())]
    # The oldest request comes first, and the one whose prompt is about as long joins it.
    assert [[key[1] for key, _ in batch] for batch in polled] == [[0, 3], [1, 2]]
    assert sampler.pending == 0
    for key, sample in polled[0] + polled[1]:
        prompt = prompts[key[1]]
        assert sample.token_ids == greedy_continuation(model, prompt, 5)[: len(sample.token_ids)]
