"""The update inside NeMo-RL's policy workers: the local engine's numbers, however the model is sharded."""

import functools
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from opsd.config import DistillConfig
from opsd.cpu_offload import PinnedCpuCopies
from opsd.hidden_states import predicting_hidden
from opsd.kl import KLConfig
from opsd.nemo_rl.driver.config import ClusterShape, policy_config
from opsd.nemo_rl.micro_batches import rank_updates
from opsd.nemo_rl.worker.lm_head_hook import run_to_lm_head
from opsd.nemo_rl.worker.swap_weights import swap_weights
from opsd.pair_kl import pair_kl
from srt.common.models import load_model
from srt.common.packing import attention_for_packing
from srt.config import load_config
from tests.opsd.helpers.on_ranks import (
    assert_same,
    in_updates,
    local_engines_kl,
    run_ranks,
    three_updates,
    waits_for_ranks,
)
from tests.srt.helpers.reference_adamw import (
    KNOBS,
    PEAK,
    SETTINGS,
    TOTAL_UPDATES,
    assert_trained_with_settings,
)

pytestmark = waits_for_ranks
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


def test_packed_sequences_share_one_row_and_the_head_computes_one_position_of_it(models, pairs):
    student = models[0]
    shapes = []
    student.lm_head.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(output.shape)))
    sequences = [pair.student for pair in pairs]
    expected = run_to_lm_head(student, sequences, 0, None, lambda hidden, head: hidden)
    with attention_for_packing(student):
        hidden = run_to_lm_head(student, sequences, 0, None, lambda hidden, head: hidden, packed=True)
    assert shapes == [(len(pairs), 1, student.config.vocab_size), (1, 1, student.config.vocab_size)]
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-5)


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


OTHER_LOSSES = (
    {"kl_config": KLConfig("mixed", mixed_weight=0.3, temperature=0.8), "grad_eps": 0.0},
    {"kl_config": KLConfig(temperature=0.2), "grad_eps": 1e-3},  # peaked: some of the vocab entries are left out
)
BOTH = pytest.mark.parametrize("sharding", ["fsdp", "tp"])


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, coin_checkpoint, other_checkpoint, five_pairs):
    """two_ranks(layout): three updates on two processes with "fsdp" or "tp", what rank 0 and rank 1 found."""
    folder = tmp_path_factory.mktemp("two ranks")
    return functools.cache(
        lambda layout: ran_on_two_ranks(layout, folder, five_pairs, coin_checkpoint, other_checkpoint)
    )


def ran_on_two_ranks(layout, folder, pairs, student, teacher):
    def sections(lr):
        settings = [f"{name}={value}" for name, value in {**KNOBS, "lr": lr, "warmup_steps": 1}.items()]
        config = load_config(DistillConfig, "distill", settings)
        return policy_config(config, ClusterShape(1, 2, 1, 1), {}, TOTAL_UPDATES)

    updates = three_updates(pairs)
    work = {
        "updates": {"fsdp": updates["data"], "tp": updates["one"] * 2},
        "sections": sections(PEAK),
        "sections at rate 0": sections(1e-60),
        "other losses": OTHER_LOSSES,
    }
    torch.save(work, folder / "work.pt")
    return run_ranks(TWO_RANKS, layout, 2, folder, STUDENT=str(student), TEACHER=str(teacher))


@pytest.fixture
def exact_models(coin_checkpoint, other_checkpoint):
    """The student and the teacher of `two_ranks`, in float64; each call of the first makes a new one."""
    teacher = load_model(str(other_checkpoint), "float64", "cpu")
    return lambda: load_model(str(coin_checkpoint), "float64", "cpu"), teacher


def mean_kl(student, teacher, pairs):
    return local_engines_kl(student, teacher, pairs, 1 / sum(len(pair.targets) for pair in pairs)).loss


def assert_first_gradient(ranks, student, teacher, pairs, atol=1e-7):
    """That every rank's first gradient is that of a whole model, clipped."""
    mean_kl(student, teacher, in_updates(pairs)[0]).backward()
    expected = gradients(student)
    norm = sum(float(g.square().sum()) for g in expected.values()) ** 0.5
    assert norm > 2 * SETTINGS.max_norm
    clipped = {name: (g * SETTINGS.max_norm / norm).float() for name, g in expected.items()}
    for rank in ranks:
        assert_same(rank["gradients"][0], clipped, rtol=1e-3, atol=atol)
        assert rank["result"].updates[0].grad_norm == pytest.approx(norm, rel=1e-4)


@BOTH
def test_a_sharded_model_gets_the_gradient_of_a_whole_one_clipped(two_ranks, exact_models, pairs, sharding):
    assert_first_gradient(two_ranks(sharding), exact_models[0](), exact_models[1], pairs)


@BOTH
def test_a_sharded_model_finds_its_soft_cap(tmp_path, layout, pairs, sharding):
    config = Gemma2Config(
        vocab_size=len(layout.tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=3.0,
        initializer_range=0.3,
    )
    for seed, name in enumerate(("student", "teacher")):
        torch.manual_seed(seed)
        Gemma2ForCausalLM(config).save_pretrained(tmp_path / name)
    models = [tmp_path / name for name in ("student", "teacher")]
    ranks = ran_on_two_ranks(sharding, tmp_path, pairs, *models)
    student, teacher = (load_model(str(model), "float64", "cpu") for model in models)
    assert_first_gradient(ranks, student, teacher, pairs, atol=1e-6)
    assert_packed_is_padded(ranks)


def assert_packed_is_padded(ranks):
    """Scores, per-token KL, norms and every gradient of all updates; a rank without work among them."""
    for rank in ranks:
        padded, packed = rank["padded"], rank["packed"]
        outputs = [
            [*found["scores"], *(output for update in found["result"].updates for output in update.outputs)]
            for found in (padded, packed)
        ]
        assert len(outputs[0]) > 3
        for expected, output in zip(*outputs, strict=True):
            assert (expected is None) == (output is None)
            if output is not None:
                torch.testing.assert_close(output.token_kl, expected.token_kl, rtol=1e-3, atol=1e-5)
        norms = [[update.grad_norm for update in found["result"].updates] for found in (packed, padded)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-3)
        for gradient, expected in zip(packed["gradients"], padded["gradients"], strict=True):
            assert_same(gradient, expected, rtol=1e-3, atol=1e-6)


@BOTH
def test_packed_updates_are_those_of_the_padded_path(two_ranks, sharding):
    assert_packed_is_padded(two_ranks(sharding))


@BOTH
def test_three_updates_are_adamw_with_every_setting_of_the_knobs(two_ranks, exact_models, pairs, sharding):
    new_student, teacher = exact_models
    for rank in two_ranks(sharding):
        assert [update.lr for update in rank["result"].updates] == pytest.approx(SETTINGS.rates)
    assert_trained_with_settings(
        two_ranks(sharding)[0]["after"],
        new_student,
        [partial(mean_kl, teacher=teacher, pairs=update) for update in in_updates(pairs)],
        wrong={},
    )


@BOTH
@pytest.mark.parametrize("index", range(len(OTHER_LOSSES)))
def test_the_loss_is_the_one_that_was_asked_for(two_ranks, exact_models, pairs, sharding, index):
    student, teacher = (model.float() for model in (exact_models[0](), exact_models[1]))
    outputs = [rank["other losses"][index].outputs for rank in two_ranks(sharding)]
    in_order = [*outputs[0], outputs[1][0]] if sharding == "fsdp" else outputs[0]
    for output, batch in zip(in_order, (pairs[:2], [pairs[4]], [pairs[2]]), strict=True):
        expected = local_engines_kl(student, teacher, batch, 1.0, **OTHER_LOSSES[index])
        torch.testing.assert_close(output.token_kl, expected.token_kl, rtol=1e-3, atol=1e-5)
        assert output.dropped_vocab_fraction == pytest.approx(float(expected.dropped_vocab_fraction), abs=0.02)
    dropped = max(float(output.dropped_vocab_fraction) for output in in_order)
    assert (dropped > 0.1) == (OTHER_LOSSES[index]["grad_eps"] > 0)


@BOTH
def test_scoring_gives_the_kl_of_the_update_that_follows_and_changes_nothing(two_ranks, sharding):
    for rank in two_ranks(sharding):
        assert rank["gathered"] == []  # or the weights would be handed on as they were before the next update
        outputs = rank["result"].updates[0].outputs
        assert [score is None for score in rank["scores"]] == [output is None for output in outputs]
        for score, output in zip(rank["scores"], outputs, strict=True):
            if output is not None:
                assert torch.equal(score.token_kl, output.token_kl)
                assert not score.loss.requires_grad


@BOTH
def test_swapping_a_sharded_models_weights_changes_none_of_them(two_ranks, sharding):
    for rank in two_ranks(sharding):
        assert_same(rank["again"], rank["after"], rtol=0, atol=0)


def test_a_teacher_that_is_swapped_in_after_a_forward_pass_of_the_student_is_the_teacher(
    two_ranks, exact_models, pairs
):
    for rank, batch in zip(two_ranks("fsdp"), (pairs[:2], [pairs[2]]), strict=True):
        expected = predicting_hidden(exact_models[1].float(), [pair.student for pair in batch], 0)
        torch.testing.assert_close(rank["teacher"], expected.detach(), rtol=1e-3, atol=1e-4)


@BOTH
def test_a_sharded_model_leaves_its_memory_and_comes_back(two_ranks, sharding):
    for rank in two_ranks(sharding):
        assert rank["gradients_left"] == []
        assert rank["bytes_left"] == 0
        assert_same(rank["back"], rank["after"], rtol=0, atol=0)


def test_a_rank_without_work_returns_nothing_for_that_round(two_ranks, pairs):
    first, second = (rank["result"].updates[:2] for rank in two_ranks("fsdp"))
    assert [output is None for output in first[0].outputs] == [False, False]
    assert [output is None for output in second[0].outputs] == [False, True]
    assert len(first[0].outputs[0].token_kl) == len(pairs[0].targets) + len(pairs[1].targets)
