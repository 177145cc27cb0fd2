"""The step on Megatron-Core's models: the numbers of their own full logits, however they are sharded.

Needs Megatron-Core; skipped loudly otherwise.
"""

import math
from pathlib import Path

import pytest
import torch

from opsd.config import DistillConfig, optimizer_config
from srt.config import load_config
from tests.opsd.helpers.needs_nemo_rl import missing_packages
from tests.opsd.helpers.on_ranks import assert_same, outputs_in_order, run_ranks, three_updates, waits_for_ranks
from tests.srt.helpers.reference_adamw import KNOBS, PEAK, SETTINGS, TOTAL_UPDATES, difference

pytestmark = [
    waits_for_ranks,
    pytest.mark.skipif(
        bool(missing_packages("megatron", "megatron.core")),
        reason="megatron-core is not installed: the step on Megatron models was NOT run",
    ),
]

RUN = Path(__file__).parents[1] / "helpers" / "megatron_update.py"
RANKS = {"dense": 1, "one": 1, "data": 2, "tensor": 2, "sequence": 2, "pipeline": 2, "context": 2, "all": 4}
EVERY = pytest.mark.parametrize(
    ("sharding", "tied"), [(name, tied) for name in RANKS if name != "dense" for tied in (True, False)]
)
PADDING = 6  # rows of the output layer beyond the vocabulary


@pytest.fixture(scope="module")
def vocab_size(layout):
    return len(layout.tokenizer)


@pytest.fixture(scope="module")
def found(tmp_path_factory, five_pairs, vocab_size):
    """Three updates with every layout: what each rank found."""
    folder = tmp_path_factory.mktemp("megatron")
    rows = -(-(vocab_size + PADDING) // 2) * 2
    settings = [f"{name}={value}" for name, value in {**KNOBS, "lr": PEAK, "warmup_steps": 1}.items()]
    config = load_config(DistillConfig, "distill", settings)
    sections = optimizer_config(config, TOTAL_UPDATES).megatron_sections()
    work = {"sections": sections, "updates": three_updates(five_pairs), "vocab_size": vocab_size, "rows": rows}
    torch.save(work, folder / "work.pt")
    return {name: run_ranks(RUN, name, ranks, folder) for name, ranks in RANKS.items()}


@EVERY
def test_every_tokens_kl_is_that_of_the_full_logits(found, sharding, tied):
    expected = torch.cat(found["dense"][0][tied]["token_kl"])
    results = [rank[tied]["result"] for rank in found[sharding]]
    outputs = outputs_in_order(results, assigned=sharding == "data")
    if sharding == "data":
        assert results[1].updates[0].outputs[1] is None
    else:
        for result in results[1:]:
            theirs = outputs_in_order([result], assigned=False)
            assert all(torch.equal(a.token_kl, b.token_kl) for a, b in zip(outputs, theirs, strict=True))
    torch.testing.assert_close(torch.cat([output.token_kl for output in outputs]), expected, rtol=1e-4, atol=1e-6)


@EVERY
def test_scoring_gives_every_rank_the_kl_of_the_first_update(found, sharding, tied):
    for rank in found[sharding]:
        for score, output in zip(rank[tied]["scores"], rank[tied]["result"].updates[0].outputs, strict=True):
            assert (score is None) == (output is None)
            if output is not None:
                torch.testing.assert_close(score.token_kl, output.token_kl, rtol=1e-5, atol=1e-7)
                assert torch.equal(score.top1_agreement, output.top1_agreement)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sharding", ["one", "tensor", "sequence", "pipeline"])  # in others a rank keeps its part
def test_every_weights_gradient_is_that_of_the_full_logits(found, vocab_size, sharding, tied):
    expected = found["dense"][0][tied]["gradients"][0]
    for rank in found[sharding]:
        gradients = rank[tied]["gradients"]
        assert_same(gradients, {name: expected[name] for name in gradients}, rtol=1e-3, atol=1e-7)
    assert {name for rank in found[sharding] for name in rank[tied]["gradients"]} == set(expected)
    head = "embedding.word_embeddings.weight" if tied else "output_layer.weight"
    assert expected[head][:vocab_size].any()
    assert not found[sharding][-1][tied]["gradients"][head][vocab_size:].any()


@EVERY
def test_the_norm_is_of_all_ranks_and_the_rate_follows_the_schedule(found, sharding, tied):
    expected = found["dense"][0][tied]["norms"]
    for rank in found[sharding]:
        updates = rank[tied]["result"].updates
        assert [update.grad_norm for update in updates] == pytest.approx(expected, rel=1e-4)
        assert [update.lr for update in updates] == pytest.approx(SETTINGS.rates)
    assert min(expected) > 2 * SETTINGS.max_norm  # they were clipped


@EVERY
def test_three_updates_are_adamw_with_every_setting_of_the_knobs(found, sharding, tied):
    expected = found["dense"][0][tied]["after"]
    for rank in found[sharding]:
        before, after = rank[tied]["before"], rank[tied]["after"]
        here = {name: expected[name] for name in before}  # of a pipeline, a stage's weights
        assert difference(after, here, {name: weight.double() for name, weight in before.items()}) < 0.01
        assert not any(torch.equal(after[name], weight) for name, weight in before.items())


@EVERY
def test_a_gradient_that_is_not_finite_changes_nothing(found, sharding, tied):
    for rank in found[sharding]:
        (update,) = rank[tied]["broken"].updates  # none is made after it
        assert not math.isfinite(update.grad_norm)
        assert_same(rank[tied]["after broken"], rank[tied]["after"], rtol=0, atol=0)


@EVERY
def test_logits_are_formed_for_one_position_of_a_rank_and_no_hook_stays(found, sharding, tied):
    for rank in found[sharding]:
        if rank[tied]["shapes"] or sharding not in ("pipeline", "all"):  # of a pipeline, the last stage's
            assert {shape[0] for shape in rank[tied]["shapes"]} == {2 if sharding == "sequence" else 1}
        assert rank[tied]["hooks"] == 0


@pytest.mark.parametrize("sharding", ["data", "tensor"])
def test_a_teacher_swapped_in_touches_neither_weights_nor_their_fp32_masters(found, sharding):
    for rank in found[sharding]:
        swap = rank["swap"]
        assert_same(swap["after"], swap["before"], rtol=0, atol=0)
        assert not any(torch.equal(swap["within"][name], weight) for name, weight in swap["before"].items())
        assert swap["masters before"] and all(
            torch.equal(a, b) for a, b in zip(swap["masters before"], swap["masters after"], strict=True)
        )
