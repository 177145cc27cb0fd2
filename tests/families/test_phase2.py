"""One update of Phase 2 for every family: samples, log-probs, KL and gradient against the model's own logits.

The reference is written out naively: one sequence after the other, the model's own logits in float64, eager
attention, autograd.
"""

import pytest
import torch

from opsd.hidden_states import predicting_hidden
from srt.common.errors import UserError
from tests.families.models import OTHER_LOGITS_WHEN_CACHED, OWN, PADDED, RARE, installed, naive_model, tiny
from tests.opsd.conftest import grader, layout, make_config, make_run, open_run  # noqa: F401 - fixtures
from tests.opsd.helpers.problems import PROBLEMS

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 3.0, 4.0],
}
# (transformers' model_type, settings): families that compute their logits in different ways. What changes logits
# or adds noise is set to show.
FAMILIES = [
    ("cohere", {"logit_scale": 0.25}),
    ("cohere2", {"logit_scale": 0.25}),
    ("deepseek_v3", {}),
    ("falcon", {"hidden_dropout": 0.3, "attention_dropout": 0.3}),
    ("falcon_h1", {"lm_head_multiplier": 0.5}),
    ("gemma2", {}),
    ("gemma3_text", {"final_logit_softcapping": 5.0}),
    ("gpt2", {}),  # with its dropout of 0.1
    ("gpt_neox", {}),
    ("gpt_oss", {}),
    ("gptj", {}),  # a head with a bias
    ("granite", {}),
    ("granitemoe", {}),
    ("llama", {}),
    ("llama", {"rope_parameters": DYNAMIC}),
    ("llama4_text", {}),
    ("mamba", {}),
    ("mistral", {}),
    ("mixtral", {"router_jitter_noise": 0.5}),
    ("nanochat", {}),
    ("nemotron", {}),
    ("olmo", {}),
    ("olmo2", {}),
    ("olmo3", {}),
    ("olmoe", {}),
    ("opt", {"layerdrop": 0.5}),
    ("phi", {"resid_pdrop": 0.3}),
    ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 24}),
    ("qwen2", {}),
    ("qwen3", {}),
    ("qwen3", {"tie_word_embeddings": True}),
    ("qwen3_moe", {}),
    ("smollm3", {}),
    ("stablelm", {}),
    ("starcoder2", {"residual_dropout": 0.3}),
]
REFUSED = {"minicpm3", "modernbert-decoder"}  # a scale, or a layer, before the LM head
OTHERS = set(installed(OWN | RARE)) - {family for family, _ in FAMILIES} - REFUSED
FAMILIES += [pytest.param((family, {}), marks=pytest.mark.rare_families) for family in sorted(OTHERS)]


@pytest.fixture
def save(layout, tmp_path):  # noqa: F811 - a fixture
    """save("gemma2") writes a checkpoint of the family."""

    def save(family, **settings):
        size = {"vocab_size": len(layout.tokenizer)}
        size |= {"vocab_size_per_layer_input": len(layout.tokenizer)} if family == "gemma3n_text" else {}
        ids = {"bos_token_id": 1, "eos_token_id": layout.eot_ids[0]}
        tiny(family, **size, **ids, **settings)[1].save_pretrained(tmp_path / family)
        return tmp_path / family

    return save


@pytest.fixture(params=FAMILIES, ids=lambda family: "-".join((family[0], *family[1])))
def checkpoint(request, save):
    family, settings = request.param
    return save(family, **settings)


def log_probs(model, sequence):
    """(T, V), of each supervised token."""
    logits = model(input_ids=torch.tensor([sequence.ids]), use_cache=False).logits
    return logits[0, sequence.start - 1 : -1].double().log_softmax(-1)


@pytest.mark.parametrize("packing", [0, 1], ids=["padded", "packed"])
def test_an_update(checkpoint, open_run, packing, capsys, request):  # noqa: F811 - a fixture
    if checkpoint.name in OTHER_LOGITS_WHEN_CACHED:
        request.applymarker(pytest.mark.xfail(strict=True, reason="transformers' cache of this family"))
    opened = open_run(
        checkpoint,
        PROBLEMS,
        temperature=0.8,
        max_total_sequence_length=34,
        tokens_per_micro_batch=200,
        gradient_checkpointing=len(checkpoint.name) % 2,  # half of the families with it
        max_grad_norm=0,
        lr=1e-3,
        packing=packing,
    )
    assert opened.engine.student.packed == (packing == 1 and checkpoint.name not in PADDED)
    assert ("padding instead of packing, because" in capsys.readouterr().out) == (
        packing != opened.engine.student.packed
    )
    before = [parameter.detach().clone() for parameter in opened.engine.student.trained_parameters()]
    output = opened.output(0)
    metrics = output.metrics()
    assert metrics["logprob_gap"] < 1e-3

    reference, loss, tokens = naive_model(checkpoint), 0.0, 0
    for scored in output.result.pairs_with_kl():
        pair = scored.pair
        log_p = log_probs(reference, pair.student)
        with torch.no_grad():
            log_q = log_probs(reference, pair.teacher)
        sampled = log_p.detach().gather(-1, torch.tensor(pair.targets)[:, None])[:, 0]
        assert pair.rollout.logprobs[: len(pair.targets)] == pytest.approx(sampled.tolist(), abs=2e-3)
        token_kl = (log_p.exp() * (log_p - log_q)).sum(-1)
        assert scored.token_kl == pytest.approx(token_kl.tolist(), rel=2e-3, abs=1e-4)
        loss, tokens = loss + token_kl.sum(), tokens + len(pair.targets)
    assert tokens == metrics["trained_tokens"] and metrics["kl"] > 1e-3
    (loss / tokens).backward()
    norm = sum(p.grad.square().sum() for p in reference.parameters() if p.grad is not None).sqrt()
    assert metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-2)
    after = opened.engine.student.trained_parameters()
    assert any(not torch.equal(new, old) for new, old in zip(after, before, strict=True))


def test_scores_do_not_depend_on_the_batch(checkpoint, open_run):  # noqa: F811 - fixtures
    """A short sequence beside a long one, padded, and alone."""
    opened = open_run(checkpoint, PROBLEMS)
    output = opened.rollout_worker.layout
    short = output.student_sequence(output.chat("x = 1"), output.tokenizer.encode("7"))
    long = output.student_sequence(
        output.chat("x = 1 [A] + 1 [B] - 2"), output.tokenizer.encode("A 1 + 1 = 2\n" * 8)
    )
    model = opened.engine.student.model
    with torch.no_grad():
        beside = predicting_hidden(model, [short, long], 0)[: len(short.ids) - short.start]
        alone = predicting_hidden(model, [short], 0)
    torch.testing.assert_close(beside, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", installed(dict.fromkeys(REFUSED, {})))
def test_logits_that_do_not_follow_from_the_last_hidden_states_are_refused(family, save, open_run):  # noqa: F811
    with pytest.raises(UserError, match="differ from its last hidden states .* such models are not supported"):
        open_run(save(family), PROBLEMS)
