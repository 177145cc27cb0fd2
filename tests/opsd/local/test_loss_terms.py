"""The terms beside the paper's loss, in an update of the local engine, against a naive float64 reference."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from opsd.loss_terms import advantages
from opsd.pairs import build_pair
from opsd.replay import Replay, load_replay
from srt.collect.split import metadata_path
from srt.common.errors import UserError
from srt.common.files import read_jsonl, write_json
from srt.contract.provenance import tokenizer_fingerprint
from srt.contract.records import pack_ids
from tests.opsd.helpers.problems import PHRASES, PROBLEMS
from tests.opsd.helpers.runs import train_run
from tests.opsd.helpers.states import equal
from tests.opsd.helpers.updates import gradients_of, papers_loss


@pytest.fixture
def rollouts(make_rollout):
    return [
        make_rollout("A 1 + 1 = 2\nB 2 * 3 = 6\n\\boxed{6}", r=1),
        make_rollout("\\boxed{3}", r=0, x="x = 5 [A] * 3 [B] - 2"),
        make_rollout("A 4 - 1 = 3\nB 3 +", r=0, x="x = 4", finish_reason="length"),
    ]


@pytest.fixture
def models(tiny_checkpoint, other_checkpoint):
    return [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        for folder in (tiny_checkpoint, other_checkpoint)
    ]


@pytest.fixture
def updated(open_run, tiny_checkpoint, other_checkpoint, layout):
    """updated(rollouts, **knobs) -> the metrics of an update that changes nothing, and its gradients."""

    def update(rollouts, replay=None, **knobs):
        fixed = {"max_grad_norm": 0, "lr": 1e-60, "tokens_per_micro_batch": 120}
        opened = open_run(tiny_checkpoint, PROBLEMS, teacher=other_checkpoint, **fixed, **knobs)
        opened.engine.optimizer_step.replay = replay
        pairs = [build_pair(rollout, layout, 1000) for rollout in rollouts]
        _, gradients = gradients_of(opened, pairs)
        return opened.engine.update(pairs).optimizer, gradients

    return update


def assert_gradients(actual, model):
    for name, parameter in model.named_parameters():
        error = (actual[name].double() - parameter.grad).norm() / parameter.grad.norm()
        assert error <= 1e-4, name


def log_likelihood(model, before, y):
    logits = model(input_ids=torch.tensor([before + y])).logits[0, len(before) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(y)[:, None]).sum()


def test_kl_clip(updated, rollouts, models, layout):
    _, token_kl = papers_loss(*models, rollouts, layout.tokenizer)
    values = torch.cat([torch.tensor(kl) for kl in token_kl])
    clip = round(float(values.median()), 4)
    loss = 0
    for rollout in rollouts:  # one by one, to have each token's KL in the graph
        loss += papers_tokens(*models, rollout, layout.tokenizer).clamp(max=clip).sum()
    loss = loss / len(values)
    loss.backward()
    metrics, gradients = updated(rollouts, kl_clip=clip)
    assert_gradients(gradients, models[0])
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["kl_clipped"] == pytest.approx(float((values > clip).double().mean()))


def papers_tokens(student, teacher, rollout, tokenizer):
    """Each token's KL, with its graph."""
    said = [token for token in rollout.y if token != tokenizer.eos_token_id]
    cue = tokenizer.encode("\n\n" + PHRASES[rollout.r] + "\n\n")
    log_p, log_q = (
        model(input_ids=torch.tensor([before + rollout.y])).logits[0, len(before) - 1 : -1].log_softmax(-1)
        for model, before in ((student, rollout.chat), (teacher, rollout.chat + said + cue))
    )
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def test_reward_weight_is_reinforce_with_the_mean_of_the_others_as_baseline(updated, rollouts, models, layout):
    kl, _ = papers_loss(*models, rollouts, layout.tokenizer)
    tokens = sum(len(rollout.y) for rollout in rollouts)
    baselines = [0.0, 0.5, 0.5]  # of rewards 1, 0, 0
    term = -sum(
        (rollout.r - baseline) * log_likelihood(models[0], rollout.chat, rollout.y)
        for rollout, baseline in zip(rollouts, baselines, strict=True)
    )
    loss = kl + 0.7 * term / tokens
    loss.backward()
    metrics, gradients = updated(rollouts, reward_weight=0.7)
    assert_gradients(gradients, models[0])
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["reward_loss"] == pytest.approx(term.item() / tokens, rel=1e-5)


def test_advantages():
    assert advantages([1, 0, 0]) == [1.0, -0.5, -0.5]
    assert advantages([1, 1]) == [0.0, 0.0]
    assert advantages([1]) == [1.0]  # with nothing to compare it with


@pytest.fixture
def replay_file(tmp_path, layout):
    """A stage-2 file of three tuples, the last of which is long."""
    texts = [("x = 1", "A 1", "A 2"), ("x = 2", "\\boxed{3}", "\\boxed{4}"), ("x = 3", "A 1 " * 40, "A 2")]
    records = [
        {
            "x": x,
            "y_init": y_init,
            "p_r": PHRASES[n % 2],
            "y_revised": y_revised,
            "y_init_ids": pack_ids(layout.with_eot(layout.tokenizer.encode(y_init))),
            "y_revised_ids": pack_ids(layout.with_eot(layout.tokenizer.encode(y_revised))),
        }
        for n, (x, y_init, y_revised) in enumerate(texts)
    ]
    path = tmp_path / "p_stage2.json"
    write_json(path, records)
    identity = {"tokenizer_fingerprint": tokenizer_fingerprint(layout.tokenizer)}
    write_json(metadata_path(path), {"identity": identity})
    return path


def test_replay_is_the_sft_loss_of_stage_2_on_its_share_of_the_update(
    updated, rollouts, models, layout, make_config, replay_file, capsys
):
    config = make_config(
        srt_replay=0.5, srt_replay_data=replay_file, train_global_batch_size=2, max_teacher_tokens=100
    )
    replay = load_replay(config, layout)
    assert replay.per_update == 2  # as many as responses: half of the sequences
    assert "replay: 2 of 2 revision tuples" in capsys.readouterr().out
    kl, _ = papers_loss(*models, rollouts, layout.tokenizer)
    term, tokens = 0, 0
    for x, y_init, r, y_revised in (("x = 1", "A 1", 0, "A 2"), ("x = 2", "\\boxed{3}", 1, "\\boxed{4}")):
        encode = layout.tokenizer.encode
        before = layout.chat(x) + encode(y_init) + encode("\n\n" + PHRASES[r] + "\n\n")
        y = [*encode(y_revised), layout.eot]
        term -= log_likelihood(models[0], before, y)
        tokens += len(y)
    loss = kl + 0.3 * term / tokens
    loss.backward()
    metrics, gradients = updated(rollouts, replay=replay, srt_replay_weight=0.3)
    assert_gradients(gradients, models[0])
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["replay_loss"] == pytest.approx(term.item() / tokens, rel=1e-5)


def test_every_update_has_other_tuples_until_all_were_used():
    replay = Replay([object() for _ in range(6)], 2, seed=1)
    first, second = ([replay.of_update(update) for update in updates] for updates in (range(3), range(3, 6)))
    assert {id(s) for update in first for s in update} == set(map(id, replay.sequences))
    assert first != second
    assert Replay(replay.sequences, 2, seed=1).of_update(4) == second[1]


def test_replay_needs_its_data(make_config, layout, replay_file):
    with pytest.raises(UserError, match=r"SRT_REPLAY=0.2 needs SRT_REPLAY_DATA"):
        load_replay(make_config(srt_replay=0.2), layout)
    with pytest.raises(UserError, match="longer than MAX_TEACHER_TOKENS=8"):
        load_replay(make_config(srt_replay=0.2, srt_replay_data=replay_file, max_teacher_tokens=8), layout)
    assert load_replay(make_config(), layout) is None


# Whole runs -----------------------------------------------------------------------------------------------

RUN = {"max_num_steps": 4, "save_period": 2, "max_total_sequence_length": 22, "lr": 1e-3}


@pytest.mark.parametrize(
    "knobs", [{"kl_clip": 0.1}, {"reward_weight": 1.0}, {"srt_replay": 0.5}, {"loss_on": "r0"}], ids=str
)
def test_a_resumed_run_with_a_term_is_the_one_that_was_not_stopped(
    make_run, grader, coin_checkpoint, layout, replay_file, monkeypatch, knobs
):
    def new_run(folder):
        run = make_run(coin_checkpoint, PROBLEMS, folder=folder, **RUN, **knobs, srt_replay_data=replay_file)
        run.replay = load_replay(run.config, layout)
        return run

    straight = train_run(new_run("straight"), grader)
    stopped = new_run("stopped")
    monkeypatch.setattr(stopped, "checkpoint_due", lambda finished: 1 / (3 - finished) if finished > 1 else False)
    with pytest.raises(ZeroDivisionError):
        train_run(stopped, grader)
    resumed = train_run(new_run("stopped"), grader)
    assert resumed.start_step == 2
    assert equal(resumed.student.model.state_dict(), straight.student.model.state_dict())
    plain = train_run(make_run(coin_checkpoint, PROBLEMS, folder="plain", **RUN), grader)
    assert not equal(plain.student.model.state_dict(), straight.student.model.state_dict())


def test_loss_on_wrong_responses_only(open_run, coin_checkpoint):
    opened = open_run(
        coin_checkpoint, PROBLEMS, loss_on="r0", num_prompts_per_step=6, train_global_batch_size=6, **RUN
    )
    output = opened.output(0)
    wrong = [rollout for rollout in output.rollouts if rollout.r == 0]
    assert 0 < len(wrong) < len(output.rollouts)
    assert [pair.rollout for pair in output.pairs] == wrong
    metrics = output.metrics()
    assert metrics["trained_responses"] == len(wrong) and "kl_r1" not in metrics


def test_a_step_of_right_responses_makes_no_update_on_wrong_ones(make_run, grader, coin_checkpoint, monkeypatch):
    monkeypatch.setattr("opsd.rollouts.int", lambda correct: 1, raising=False)  # whatever the verifier says
    run = make_run(coin_checkpoint, PROBLEMS, loss_on="r0", validation=PROBLEMS[:2], val_num_samples=1, **RUN)
    engine = train_run(run, grader)
    lines = read_jsonl(run.output_dir / "metrics.jsonl")
    assert [line["trained_responses"] for line in lines] == [0] * 4
    assert all("kl" not in line and line["reward"] == 1 for line in lines)
    assert equal(copy.copy(engine.student.model.state_dict()), engine.teacher.model.state_dict())
