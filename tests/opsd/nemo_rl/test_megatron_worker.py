"""NeMo-RL's Megatron worker with our step in it, on CPUs: the local engine's numbers and files.

Needs NeMo-RL's source, Megatron-Core, Megatron-Bridge and what they import; skipped loudly otherwise. 5 minutes.
"""

from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from srt.common.models import load_model
from tests.opsd.helpers.four_layers import with_four_layers
from tests.opsd.helpers.needs_nemo_rl import MEGATRON, needs_nemo_rl
from tests.opsd.helpers.on_ranks import (
    assert_same,
    in_updates,
    local_engines_kl,
    outputs_in_order,
    run_ranks,
    three_updates,
    waits_for_ranks,
)
from tests.srt.helpers.reference_adamw import SETTINGS, difference

RUN = Path(__file__).parents[1] / "helpers" / "megatron_worker_on_cpu.py"
RANKS = {"one": 1, "data": 2, "tensor": 2, "pipeline": 2, "context": 2}  # fp32
CONTINUED = {"bf16": 1, "tensor": 2, "pipeline": 2}
pytestmark = [
    waits_for_ranks,
    pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU"),
    *needs_nemo_rl("the Megatron worker was NOT run", MEGATRON),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("megatron worker")


@pytest.fixture(scope="module")
def checkpoint(folder, tiny_checkpoint):
    return with_four_layers(tiny_checkpoint, folder / "checkpoint")


@pytest.fixture(scope="module")
def found(folder, five_pairs, checkpoint):
    """What each rank found, by sharding."""
    torch.save(three_updates(five_pairs), folder / "work.pt")
    student = str(checkpoint)
    ranks = RANKS | CONTINUED
    return {name: run_ranks(RUN, name, ranks[name], folder, STUDENT=student) for name in ranks}


@pytest.fixture(scope="module")
def continued(found, folder, checkpoint):
    """What each rank found that went on from the checkpoint of `found`."""
    student = str(checkpoint)
    return {
        name: run_ranks(RUN, f"again {name}", ranks, folder, STUDENT=student) for name, ranks in CONTINUED.items()
    }


@pytest.fixture(scope="module")
def expected(five_pairs, checkpoint):
    """The same updates by transformers and AdamW written out: KL of every token, norms, weights."""
    student, teacher = (load_model(str(checkpoint), "float64", "cpu") for _ in range(2))
    before = {name: weight.clone() for name, weight in weights_of(student).items()}
    token_kl, norms = [], []

    def mean_kl(student, pairs):
        output = local_engines_kl(student, teacher, pairs, 1 / sum(len(pair.targets) for pair in pairs))
        token_kl.append(output.token_kl)
        return output.loss

    losses = [partial(mean_kl, pairs=pairs) for pairs in in_updates(five_pairs)]
    after = SETTINGS.train(student, losses, norms)
    return {"token_kl": torch.cat(token_kl), "norms": norms, "before": before, "weights": after}


def weights_of(model):
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def load(folder):
    return weights_of(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


EVERY = pytest.mark.parametrize("sharding", RANKS)
WITH_BF16 = pytest.mark.parametrize("sharding", [*RANKS, "bf16"])


@EVERY
def test_before_training_the_written_student_is_the_checkpoint(found, folder, checkpoint, sharding):
    assert_same(load(folder / f"of {sharding}" / "start"), load(checkpoint), rtol=0, atol=0)
    names = set(AutoModelForCausalLM.from_pretrained(checkpoint).state_dict())
    assert set(found[sharding][0]["names for vLLM"]) | {"lm_head.weight"} == names


@EVERY
def test_three_updates_are_adamw_with_every_setting_of_the_knobs(found, folder, expected, sharding):
    results = [rank["result"] for rank in found[sharding]]
    token_kl = torch.cat([output.token_kl for output in outputs_in_order(results, assigned=sharding == "data")])
    torch.testing.assert_close(token_kl, expected["token_kl"], rtol=1e-3, atol=1e-5)
    for result in results:
        updates = result.updates
        assert [update.grad_norm for update in updates] == pytest.approx(expected["norms"], rel=1e-3)
        assert [update.lr for update in updates] == pytest.approx(SETTINGS.rates)
    student = load(folder / f"of {sharding}" / "student")
    assert difference(student, expected["weights"], expected["before"]) < 0.01


@WITH_BF16
def test_what_trains_leaves_its_memory_and_comes_back(found, sharding):
    for rank in found[sharding]:
        assert rank["on"] > 0 and rank["off"] == 0
        assert_same(rank["back"], rank["before"], rtol=0, atol=0)


@WITH_BF16
def test_a_synchronised_teacher_is_saved_and_restored_and_the_student_stays(found, sharding):
    for rank in found[sharding]:
        assert_same(rank["restored teacher"], rank["saved teacher"], rtol=0, atol=0)
        assert_same(rank["student after"], rank["student"], rtol=0, atol=0)
        assert not any(torch.equal(rank["student"][name], x) for name, x in rank["saved teacher"].items())


@WITH_BF16
def test_nemo_rl_finds_weights_and_optimizer_in_what_was_saved(found, sharding):
    for rank in found[sharding]:
        weights, optimizer = rank["resume"]
        assert weights.is_dir()
        assert optimizer is not None


def test_in_bf16_it_is_the_same_update_within_its_precision(found, expected):
    (rank,) = found["bf16"]
    first, wanted = rank["result"].updates[0], expected["token_kl"]
    token_kl = torch.cat([output.token_kl for output in first.outputs])
    assert (token_kl - wanted[: len(token_kl)]).abs().mean() < 0.05 * wanted.mean()
    assert first.grad_norm == pytest.approx(expected["norms"][0], rel=0.05)
    masters = {name: x for name, x in rank["optimizer"].items() if name.startswith("master")}
    assert masters and all(x.dtype == torch.float32 for x in masters.values())


@pytest.mark.parametrize("sharding", CONTINUED)
def test_a_continued_run_has_weights_moments_and_counts_and_makes_the_same_updates(found, continued, sharding):
    for rank, again in zip(found[sharding], continued[sharding], strict=True):
        assert_same(again["weights"], rank["before"], rtol=0, atol=0)
        assert_same(again["optimizer"], rank["optimizer"], rtol=0, atol=0)
        for update, same in zip(rank["next"].updates, again["next"].updates, strict=True):
            assert (same.grad_norm, same.lr) == (update.grad_norm, update.lr)
        assert_same(again["student"], rank["student after next"], rtol=0, atol=0)


def test_the_teacher_of_a_continued_run_is_the_first_student(continued, checkpoint):
    start = load(checkpoint)["model.embed_tokens.weight"].bfloat16()
    (again,) = continued["bf16"]
    assert torch.equal(again["teacher"]["embedding.word_embeddings.weight"][: len(start)], start)
