"""One update of Phase 2 for every family: samples, log-probs, KL and gradient against the model's own logits.

The reference is written out naively: one sequence after the other, the model's own logits in float64, eager
attention, autograd.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM

from opsd.hidden_states import predicting_hidden
from tests.families.models import PADDED, tiny
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


@pytest.fixture(params=FAMILIES, ids=lambda family: "-".join((family[0], *family[1])))
def checkpoint(request, layout, tmp_path):  # noqa: F811 - a fixture
    kind, settings = request.param
    folder = tmp_path / kind
    ids = {"bos_token_id": None, "eos_token_id": layout.eot_ids[0]}
    tiny(kind, vocab_size=len(layout.tokenizer), **ids, **settings)[1].save_pretrained(folder)
    return folder


def naive(folder):
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, **eager).eval()


def log_probs(model, sequence):
    """(T, V), of each supervised token."""
    logits = model(input_ids=torch.tensor([sequence.ids]), use_cache=False).logits
    return logits[0, sequence.start - 1 : -1].double().log_softmax(-1)


@pytest.mark.parametrize("packing", [0, 1], ids=["padded", "packed"])
def test_an_update(checkpoint, open_run, packing, capsys):  # noqa: F811 - a fixture
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

    reference, loss, tokens = naive(checkpoint), 0.0, 0
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
