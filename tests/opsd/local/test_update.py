"""The local engine's update against the paper's formula written out."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from opsd.engine import UpdateResult
from opsd.metrics import TokenMetrics
from opsd.pairs import build_pair
from srt.common.errors import UserError
from tests.opsd.helpers.problems import PROBLEMS
from tests.opsd.helpers.states import equal
from tests.opsd.helpers.updates import gradients_of, papers_loss


@pytest.fixture(scope="module")
def rollouts(make_rollout):
    """Right and wrong, ended and cut off, of different prompts and lengths."""
    return [
        make_rollout("A 1 + 1 = 2\nB 2 * 3 = 6\n\\boxed{6}", r=1),
        make_rollout("\\boxed{3}", r=0, x="x = 5 [A] * 3 [B] - 2"),
        make_rollout("A 4 - 1 = 3\nB 3 +", r=0, x="x = 4", finish_reason="length"),
        make_rollout("A 9 * 9 = 1\n\\boxed{1}", r=1, x="x = 9 [A] * 9"),
        make_rollout("7", r=0),
    ]


@pytest.fixture(scope="module")
def reference(tiny_checkpoint, other_checkpoint, rollouts, layout):
    """Loss, per-token KL and the student's gradients by the formula."""
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        for folder in (tiny_checkpoint, other_checkpoint)
    )
    loss, token_kl = papers_loss(student, teacher, rollouts, layout.tokenizer)
    loss.backward()
    return loss.item(), token_kl, {name: p.grad for name, p in student.named_parameters()}


@pytest.mark.parametrize(
    ("tokens_per_micro_batch", "gradient_checkpointing"),
    [(1, 0), (120, 0), (10_000, 0), (120, 1)],
    ids=["one by one", "some at once", "all at once", "checkpointing"],
)
def test_an_update_is_the_formula_of_the_paper(
    open_run,
    tiny_checkpoint,
    other_checkpoint,
    rollouts,
    reference,
    layout,
    tokens_per_micro_batch,
    gradient_checkpointing,
):
    opened = open_run(
        tiny_checkpoint,
        PROBLEMS,
        teacher=other_checkpoint,
        tokens_per_micro_batch=tokens_per_micro_batch,
        gradient_checkpointing=gradient_checkpointing,
        max_grad_norm=0,
        lr=1e-60,
    )
    pairs = [build_pair(rollout, layout, 1000) for rollout in rollouts]
    result, actual_gradients = gradients_of(opened, pairs)

    loss, token_kl, gradients = reference
    metrics = TokenMetrics(result.scored)
    assert metrics.means()["kl"] == pytest.approx(loss, rel=1e-5)
    assert metrics.tokens["kl"] == sum(map(len, token_kl))
    scored = list(UpdateResult(result.scored, {}).pairs_with_kl())
    assert len(scored) == len(pairs)
    for item in scored:
        expected = token_kl[next(i for i, rollout in enumerate(rollouts) if rollout is item.pair.rollout)]
        assert item.token_kl == pytest.approx(expected, rel=1e-4)
    for name, gradient in actual_gradients.items():
        error = (gradient.double() - gradients[name]).norm() / gradients[name].norm()
        assert error <= 1e-4, name
    expected_norm = sum(gradient.square().sum() for gradient in gradients.values()).sqrt()
    assert result.grad_norm == pytest.approx(expected_norm.item(), rel=1e-4)


def test_the_gradients_norm_is_told_before_it_is_clipped(
    open_run, tiny_checkpoint, other_checkpoint, rollouts, layout
):
    opened = open_run(tiny_checkpoint, PROBLEMS, teacher=other_checkpoint, max_grad_norm=0.01, lr=1e-60)
    pairs = [build_pair(rollout, layout, 1000) for rollout in rollouts]
    result, gradients = gradients_of(opened, pairs)
    clipped = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
    assert result.grad_norm > 0.02
    assert clipped == pytest.approx(0.01, rel=1e-3)


def test_columns_that_carry_nothing_are_left_out_of_the_gradient_and_counted(
    open_run, tiny_checkpoint, other_checkpoint, rollouts, reference, layout
):
    settings = {"kl_grad_eps": 1e-3, "max_grad_norm": 0, "lr": 1e-60}
    opened = open_run(tiny_checkpoint, PROBLEMS, teacher=other_checkpoint, **settings)
    result = opened.engine.optimizer_step.run([build_pair(rollout, layout, 1000) for rollout in rollouts])
    metrics, norm = TokenMetrics(result.scored), result.grad_norm
    assert metrics.means()["kl"] == pytest.approx(reference[0], rel=1e-5)
    assert 0 <= metrics.means()["dropped_vocab_fraction"] < 1
    wanted = sum(gradient.square().sum() for gradient in reference[2].values()).sqrt()
    assert norm == pytest.approx(wanted.item(), rel=0.01)


def test_gradients_of_an_update_do_not_leak_into_the_next(
    open_run, tiny_checkpoint, other_checkpoint, rollouts, layout
):
    opened = open_run(tiny_checkpoint, PROBLEMS, teacher=other_checkpoint, max_grad_norm=0, lr=1e-60)
    pairs = [build_pair(rollout, layout, 1000) for rollout in rollouts]
    norms = [opened.engine.optimizer_step.run(pairs).grad_norm for _ in range(2)]
    assert norms[0] == norms[1]


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_reaches_the_weights(
    open_run, tiny_checkpoint, other_checkpoint, rollouts, layout
):
    opened = open_run(tiny_checkpoint, PROBLEMS, teacher=other_checkpoint)
    with torch.no_grad():
        opened.engine.teacher.model.get_input_embeddings().weight.fill_(torch.nan)
    before = copy.deepcopy(opened.engine.student.model.state_dict())
    with pytest.raises(UserError, match="the gradient norm is nan: the update was skipped"):
        opened.engine.optimizer_step.run([build_pair(rollouts[0], layout, 1000)])
    assert equal(opened.engine.student.model.state_dict(), before)


def test_every_update_has_a_learning_rate_and_reports_it(
    open_run, tiny_checkpoint, other_checkpoint, rollouts, layout
):
    opened = open_run(tiny_checkpoint, PROBLEMS, teacher=other_checkpoint, lr=1e-2, warmup_steps=2)
    pairs = [build_pair(rollout, layout, 1000) for rollout in rollouts]
    reported, moved = [], []
    for _ in range(3):
        before = [parameter.clone() for parameter in opened.engine.optimizer_step.parameters]
        reported.append(opened.engine.optimizer_step.run(pairs).lr)
        moved.append(not all(map(torch.equal, before, opened.engine.optimizer_step.parameters)))
    assert reported == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2])
    assert moved == [True, True, True]


def test_the_warm_up_starts_where_warmup_start_says(open_run, tiny_checkpoint):
    opened = open_run(tiny_checkpoint, PROBLEMS, lr=1e-2, warmup_steps=20, warmup_start=0.1)
    assert opened.engine.optimizer_step.scheduler.get_last_lr() == pytest.approx([1e-3] * 2)


def test_a_step_makes_one_update_for_each_global_batch_in_order(open_run, tiny_checkpoint, monkeypatch):
    opened = open_run(
        tiny_checkpoint, PROBLEMS, num_prompts_per_step=6, train_global_batch_size=2, max_total_sequence_length=20
    )
    updates = []
    run_step = opened.engine.optimizer_step.run

    def noted(pairs):
        updates.append([pair.rollout.problem.id for pair in pairs])
        return run_step(pairs)

    monkeypatch.setattr(opened.engine.optimizer_step, "run", noted)
    metrics = opened.step(0)
    ids = [problem.id for problem in opened.run.problems(0)]
    assert len(set(ids)) == 6
    assert updates == [ids[:2], ids[2:4], ids[4:]]  # in the order of the step's problems
    assert metrics["trained_responses"] == metrics["rollouts"] == 6


def test_sampler_and_trainer_agree_on_the_log_probs(open_run, coin_checkpoint):
    metrics = open_run(coin_checkpoint, PROBLEMS, max_total_sequence_length=24).step(0)
    assert metrics["logprob_gap"] <= 1e-4


def test_responses_are_sampled_from_the_weights_in_training(open_run, coin_checkpoint):
    opened = open_run(coin_checkpoint, PROBLEMS, max_total_sequence_length=24, lr=1e-3)
    gaps = [opened.step(step)["logprob_gap"] for step in range(3)]
    assert max(gaps) <= 1e-4  # stale weights would open a gap in the second step
