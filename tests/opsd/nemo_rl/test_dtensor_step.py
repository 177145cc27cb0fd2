"""The update inside NeMo-RL's policy workers: the local engine's numbers, however the model is sharded."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from opsd.kl import KLConfig
from opsd.nemo_rl.micro_batches import rank_updates
from opsd.nemo_rl.worker.cpu_offload import PinnedCpuCopies
from opsd.nemo_rl.worker.lm_head_hook import run_to_lm_head
from opsd.nemo_rl.worker.swap_weights import swap_weights
from opsd.pair_kl import pair_kl
from tests.opsd.helpers.on_ranks import assert_same, local_engines_kl, run_ranks, two_updates

TWO_RANKS = Path(__file__).parents[1] / "helpers" / "sharded_update.py"


@pytest.fixture
def pairs(five_pairs):
    return five_pairs


@pytest.fixture
def models(tiny_checkpoint, other_checkpoint):
    return [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (tiny_checkpoint, other_checkpoint)
    ]


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


def test_both_engines_have_the_same_loss_and_gradient_on_the_same_batch(models, pairs):
    student, teacher = models
    local = local_engines_kl(student, teacher, pairs, 0.25)
    local.loss.backward()
    expected = gradients(student)

    (update,) = rank_updates([[pairs]])
    batch = update.micro_batches[0]
    with torch.no_grad():
        teacher_hidden, teacher_head = run_to_lm_head(
            teacher, [pair.teacher for pair in batch], 0, None, lambda hidden, head: (hidden, head.detached_copy())
        )
    sequences = [pair.student for pair in batch]

    def kl_to_teacher(hidden, head):
        return pair_kl(hidden, head, teacher_hidden, teacher_head, sequences, 0.25, KLConfig(), 0.0)

    ours = run_to_lm_head(student, sequences, 0, None, kl_to_teacher)
    ours.loss.backward()

    assert update.tokens == sum(len(pair.targets) for pair in pairs)
    torch.testing.assert_close(ours.token_kl, local.token_kl)
    torch.testing.assert_close(ours.student_logprob, local.student_logprob)
    torch.testing.assert_close(ours.loss, local.loss)
    assert_same(gradients(student), expected)


def test_the_head_computes_one_position_per_sequence_and_our_hook_is_removed(models, pairs):
    student = models[0]
    shapes = []
    spy = student.lm_head.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(output.shape)))
    run_to_lm_head(student, [pair.student for pair in pairs], 0, None, lambda hidden, head: None)
    spy.remove()
    assert shapes == [(len(pairs), 1, student.config.vocab_size)]
    with pytest.raises(ZeroDivisionError):
        run_to_lm_head(student, [pairs[0].student], 0, None, lambda hidden, head: 1 / 0)
    assert not student.lm_head._forward_pre_hooks


def test_the_students_weights_come_back_also_after_an_error(models):
    student = models[0]
    own, other = ({name: x.clone() for name, x in model.state_dict().items()} for model in models)
    with pytest.raises(ZeroDivisionError):
        with swap_weights(student, other, PinnedCpuCopies()):
            assert_same(student.state_dict(), other, rtol=0, atol=0)
            raise ZeroDivisionError
    assert_same(student.state_dict(), own, rtol=0, atol=0)


# Sharded over two processes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, tiny_checkpoint, other_checkpoint, five_pairs):
    """Two updates on two processes, for each layout: what rank 0 and rank 1 found."""
    folder = tmp_path_factory.mktemp("two ranks")
    updates = two_updates(five_pairs)
    torch.save({"fsdp": updates["data"], "tp": updates["one"] * 2}, folder / "updates.pt")
    models = {"STUDENT": str(tiny_checkpoint), "TEACHER": str(other_checkpoint)}
    return {name: run_ranks(TWO_RANKS, name, 2, folder, **models) for name in ("fsdp", "tp")}


@pytest.mark.parametrize("sharding", ["fsdp", "tp"])
def test_a_sharded_model_gets_the_gradient_of_a_whole_one(two_ranks, models, pairs, sharding):
    student, teacher = models
    tokens = sum(len(pair.targets) for pair in (*pairs[:3], pairs[4]))
    local = local_engines_kl(student, teacher, [*pairs[:2], pairs[4], pairs[2]], 1 / tokens)
    local.loss.backward()
    expected = gradients(student)
    for rank in two_ranks[sharding]:
        assert_same(rank["gradients"][0], expected, rtol=1e-3, atol=1e-6)
    norm = sum(float(g.pow(2).sum()) for g in expected.values()) ** 0.5
    assert two_ranks[sharding][0]["result"].updates[0].grad_norm == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("sharding", ["fsdp", "tp"])
def test_a_sharded_models_second_update_starts_from_the_first_ones_weights(two_ranks, models, pairs, sharding):
    student, teacher = models
    after_first = two_ranks[sharding][0]
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.0)
    for batch in ([*pairs[:2], pairs[4], pairs[2]], [pairs[3], pairs[0]]):
        optimizer.zero_grad()
        local_engines_kl(student, teacher, batch, 1 / sum(len(pair.targets) for pair in batch)).loss.backward()
        optimizer.step()
    assert_same(after_first["after"], {n: p.detach() for n, p in student.named_parameters()}, rtol=1e-2, atol=5e-4)
    assert not any(torch.equal(after_first["after"][n], weight) for n, weight in after_first["before"].items())


@pytest.mark.parametrize("sharding", ["fsdp", "tp"])
def test_scoring_gives_the_kl_of_the_update_that_follows_and_changes_nothing(two_ranks, sharding):
    for rank in two_ranks[sharding]:
        assert rank["gathered"] == []  # or the weights would be handed on as they were before the next update
        outputs = rank["result"].updates[0].outputs
        assert [score is None for score in rank["scores"]] == [output is None for output in outputs]
        for score, output in zip(rank["scores"], outputs, strict=True):
            if output is not None:
                assert torch.equal(score.token_kl, output.token_kl)
                assert not score.loss.requires_grad


@pytest.mark.parametrize("sharding", ["fsdp", "tp"])
def test_swapping_a_sharded_models_weights_changes_none_of_them(two_ranks, sharding):
    for rank in two_ranks[sharding]:
        assert_same(rank["again"], rank["after"], rtol=0, atol=0)


@pytest.mark.parametrize("sharding", ["fsdp", "tp"])
def test_a_sharded_model_leaves_its_memory_and_comes_back(two_ranks, sharding):
    for rank in two_ranks[sharding]:
        assert rank["bytes_left"] == 0
        assert_same(rank["back"], rank["after"], rtol=0, atol=0)


def test_a_rank_without_work_returns_nothing_for_that_round(two_ranks, pairs):
    first, second = (rank["result"].updates for rank in two_ranks["fsdp"])
    assert [output is None for output in first[0].outputs] == [False, False]
    assert [output is None for output in second[0].outputs] == [False, True]
    assert len(first[0].outputs[0].token_kl) == len(pairs[0].targets) + len(pairs[1].targets)
