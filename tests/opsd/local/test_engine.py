"""The local engine: its update against the paper's formula written out, its teacher, and its resuming."""

import copy
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from opsd.hidden_states import predicting_hidden
from opsd.metrics import StepMetrics
from opsd.pairs import build_pair
from srt.common.errors import UserError
from srt.common.files import read_json, read_jsonl
from srt.common.models import load_model
from srt.contract.layout import TokenSequence
from srt.contract.records import Problem

PHRASES = {0: "Wait, this response is wrong. Let me correct it.", 1: "Let me rephrase the above solution."}


def problem(answer="7", x="x = 1 [A] + 1", id="p"):
    return Problem(id=id, x=x, answer=answer)


PROBLEMS = [problem("7", f"x = {digit} [A] + 1", f"p{digit}") for digit in range(6)]
TOO_LONG = problem(x=" ".join(["x = 1 [A] + 1"] * 20), id="too long")


@pytest.fixture
def open_engine(make_engine, grader):
    """An engine that is ready for single steps, without the workers of a run of its own."""

    def make(*arguments, **settings):
        engine = make_engine(*arguments, **settings)
        engine._open(grader)
        return engine

    return make


# The update ---------------------------------------------------------------------------------------------


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


def papers_loss(student, teacher, rollouts, tokenizer):
    """sum_t KL(pi_theta(. | x, y_<t) || pi_SRT(. | x, y, P_r, y_<t)) over all y, divided by their tokens.

    Written from section 2.2 of arXiv:2604.12002: one sequence after the other, the logits of the whole
    vocabulary, float64. Also returns the terms of the sum, a list for each rollout.
    """
    token_kl = []
    for rollout in rollouts:
        said = [token for token in rollout.y if token != tokenizer.eos_token_id]
        cue = tokenizer.encode("\n\n" + PHRASES[rollout.r] + "\n\n")
        log_probs = []
        for model, before in ((student, rollout.chat), (teacher, rollout.chat + said + cue)):
            logits = model(input_ids=torch.tensor([before + rollout.y])).logits[0].double()
            log_probs.append(logits[len(before) - 1 : -1].log_softmax(-1))
        log_p, log_q = log_probs
        token_kl.append((log_p.exp() * (log_p - log_q)).sum(-1))
    tokens = sum(len(rollout.y) for rollout in rollouts)
    return sum(kl.sum() for kl in token_kl) / tokens, [kl.tolist() for kl in token_kl]


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
    open_engine,
    tiny_checkpoint,
    other_checkpoint,
    rollouts,
    reference,
    layout,
    tokens_per_micro_batch,
    gradient_checkpointing,
):
    engine = open_engine(
        tiny_checkpoint,
        PROBLEMS,
        teacher=other_checkpoint,
        tokens_per_micro_batch=tokens_per_micro_batch,
        gradient_checkpointing=gradient_checkpointing,
        max_grad_norm=0,
        lr=0,
    )
    pairs = [build_pair(rollout, layout, 1000) for rollout in rollouts]
    metrics = StepMetrics()
    grad_norm, scored = engine.updates.update(pairs, metrics, {})

    loss, token_kl, gradients = reference
    assert metrics.means()["kl"] == pytest.approx(loss, rel=1e-5)
    assert metrics.tokens["kl"] == sum(map(len, token_kl))
    assert len(scored) == len(pairs)
    for one in scored:
        pair, got = one.pair, one.token_kl
        wanted = token_kl[next(i for i, rollout in enumerate(rollouts) if rollout is pair.rollout)]
        assert got == pytest.approx(wanted, rel=1e-4)
    for name, parameter in engine.student.model.named_parameters():
        error = (parameter.grad.double() - gradients[name]).norm() / gradients[name].norm()
        assert error <= 1e-4, name
    wanted_norm = sum(gradient.square().sum() for gradient in gradients.values()).sqrt()
    assert grad_norm == pytest.approx(wanted_norm.item(), rel=1e-4)


def test_the_gradients_norm_is_told_before_it_is_clipped(
    open_engine, tiny_checkpoint, other_checkpoint, rollouts, layout
):
    engine = open_engine(tiny_checkpoint, PROBLEMS, teacher=other_checkpoint, max_grad_norm=0.01, lr=0)
    pairs = [build_pair(rollout, layout, 1000) for rollout in rollouts]
    grad_norm, _ = engine.updates.update(pairs, StepMetrics(), {})
    clipped = torch.stack([p.grad.norm() for p in engine.student.model.parameters()]).norm().item()
    assert grad_norm > 0.02
    assert clipped == pytest.approx(0.01, rel=1e-3)


def test_columns_that_carry_nothing_are_left_out_of_the_gradient_and_counted(
    open_engine, tiny_checkpoint, other_checkpoint, rollouts, reference, layout
):
    settings = {"kl_grad_eps": 1e-3, "max_grad_norm": 0, "lr": 0}
    engine = open_engine(tiny_checkpoint, PROBLEMS, teacher=other_checkpoint, **settings)
    metrics = StepMetrics()
    norm, _ = engine.updates.update([build_pair(rollout, layout, 1000) for rollout in rollouts], metrics, {})
    assert metrics.means()["kl"] == pytest.approx(reference[0], rel=1e-5)
    assert 0 <= metrics.means()["dropped_vocab_fraction"] < 1
    wanted = sum(gradient.square().sum() for gradient in reference[2].values()).sqrt()
    assert norm == pytest.approx(wanted.item(), rel=0.01)


def test_gradients_of_an_update_do_not_leak_into_the_next(
    open_engine, tiny_checkpoint, other_checkpoint, rollouts, layout
):
    engine = open_engine(tiny_checkpoint, PROBLEMS, teacher=other_checkpoint, max_grad_norm=0, lr=0)
    pairs = [build_pair(rollout, layout, 1000) for rollout in rollouts]
    norms = [engine.updates.update(pairs, StepMetrics(), {})[0] for _ in range(2)]
    assert norms[0] == norms[1]


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_reaches_the_weights(
    open_engine, tiny_checkpoint, other_checkpoint, rollouts, layout
):
    engine = open_engine(tiny_checkpoint, PROBLEMS, teacher=other_checkpoint)
    with torch.no_grad():
        engine.teacher.model.get_input_embeddings().weight.fill_(torch.nan)
    before = copy.deepcopy(engine.student.model.state_dict())
    with pytest.raises(UserError, match="the gradient's norm is nan: the update was not made"):
        engine.updates.update([build_pair(rollouts[0], layout, 1000)], StepMetrics(), {})
    assert equal(engine.student.model.state_dict(), before)


def test_the_learning_rate_that_is_told_is_the_one_the_update_was_made_with(
    open_engine, tiny_checkpoint, other_checkpoint, rollouts, layout
):
    engine = open_engine(tiny_checkpoint, PROBLEMS, teacher=other_checkpoint, lr=1e-2, warmup_steps=2)
    pairs = [build_pair(rollout, layout, 1000) for rollout in rollouts]
    told, moved = [], []
    for _ in range(3):
        before = [parameter.clone() for parameter in engine.updates.trained]
        engine.updates.update(pairs, StepMetrics(), {})
        told.append(engine.updates.lr)
        moved.append(not all(map(torch.equal, before, engine.updates.trained)))
    assert told == pytest.approx([0.0, 5e-3, 1e-2])
    assert moved == [False, True, True]


def test_a_step_makes_one_update_for_each_global_batch(open_engine, tiny_checkpoint, monkeypatch):
    engine = open_engine(
        tiny_checkpoint, PROBLEMS, num_prompts_per_step=6, train_global_batch_size=2, max_total_sequence_length=20
    )
    sizes = []
    update = engine.updates.update

    def counted(pairs, *rest):
        sizes.append(len(pairs))
        return update(pairs, *rest)

    monkeypatch.setattr(engine.updates, "update", counted)
    figures = engine._step(0)
    assert sizes == [2, 2, 2]
    assert figures["trained_responses"] == figures["rollouts"] == 6


def test_sampler_and_trainer_agree_on_the_log_probs(open_engine, coin_checkpoint):
    figures = open_engine(coin_checkpoint, PROBLEMS, max_total_sequence_length=24)._step(0)
    assert figures["logprob_gap"] <= 1e-4


def test_responses_are_sampled_from_the_weights_in_training(open_engine, coin_checkpoint):
    engine = open_engine(coin_checkpoint, PROBLEMS, max_total_sequence_length=24, lr=1e-3)
    gaps = [engine._step(step)["logprob_gap"] for step in range(3)]
    assert max(gaps) <= 1e-4  # stale weights would open a gap in the second step


# What enters the loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("include_truncated", [0, 1])
def test_truncated_responses_enter_the_loss_only_when_asked_for(
    open_engine, coin_checkpoint, monkeypatch, include_truncated
):
    # The longer prompts leave no room for a whole answer.
    longer = [problem(x=f"x = {digit} [A] + 1 [B] - 2", id=f"longer {digit}") for digit in (1, 2)]
    settings = {"max_total_sequence_length": 20, "include_truncated": include_truncated}
    engine = open_engine(coin_checkpoint, [*PROBLEMS[:2], *longer], **settings)
    trained = []
    update = engine.updates.update

    def recorded(pairs, *rest):
        trained.extend(pairs)
        return update(pairs, *rest)

    monkeypatch.setattr(engine.updates, "update", recorded)
    figures = engine._step(0)
    assert figures["truncated"] == 0.5
    cut_off = [pair for pair in trained if pair.rollout.finish_reason == "length"]
    assert len(cut_off) == (2 if include_truncated else 0)
    assert figures["trained_tokens"] == sum(len(pair.rollout.y) for pair in trained)
    assert figures["trained_responses"] == len(trained)


def test_a_step_of_which_nothing_enters_the_loss_says_what_to_change(open_engine, tiny_checkpoint):
    engine = open_engine(tiny_checkpoint, PROBLEMS, max_total_sequence_length=15, include_truncated=0)
    with pytest.raises(UserError, match=r"no response enters the loss \(4 of 4 were graded\).*INCLUDE_TRUNCATED"):
        engine._step(0)


def test_responses_that_were_shortened_for_the_teacher_are_counted(open_engine, tiny_checkpoint):
    engine = open_engine(tiny_checkpoint, PROBLEMS, max_total_sequence_length=30, max_teacher_tokens=40)
    figures = engine._step(0)
    assert figures["shortened_for_teacher"] == 4
    assert 0 < figures["trained_tokens"] < 4 * figures["response_tokens"]


def test_limits_beyond_the_models_context_are_lowered_with_a_line(open_engine, tiny_checkpoint, capsys):
    engine = open_engine(tiny_checkpoint, PROBLEMS, max_total_sequence_length=600, max_teacher_tokens=700)
    assert (engine.rollouts.max_total_tokens, engine.max_teacher_tokens) == (512, 512)
    out = capsys.readouterr().out
    assert "MAX_TOTAL_SEQUENCE_LENGTH: 512 tokens instead of 600" in out
    assert "MAX_TEACHER_TOKENS: 512 tokens instead of 700" in out


# The teacher --------------------------------------------------------------------------------------------


def equal(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def take_steps(engine, count):
    """The states of student and teacher after each step."""
    states = []
    for step in range(count):
        engine._step(step)
        engine.finished_steps = step + 1
        engine._synchronise_teacher()
        models = (engine.student.model, engine.teacher.model)
        states.append(tuple(copy.deepcopy(model.state_dict()) for model in models))
    return states


def test_a_frozen_teacher_gets_no_gradient_and_stays_what_it_was(open_engine, tiny_checkpoint):
    engine = open_engine(tiny_checkpoint, PROBLEMS, max_total_sequence_length=20, lr=1e-3)
    start = copy.deepcopy(engine.teacher.model.state_dict())
    student, teacher = take_steps(engine, 2)[-1]
    assert equal(teacher, start)
    assert not equal(student, start)
    assert all(p.grad is None and not p.requires_grad for p in engine.teacher.model.parameters())


def test_a_teacher_that_is_synchronised_is_the_student_of_that_step_until_the_next_time(
    open_engine, tiny_checkpoint
):
    engine = open_engine(tiny_checkpoint, PROBLEMS, max_total_sequence_length=20, lr=1e-3, teacher_sync_steps=2)
    start = copy.deepcopy(engine.teacher.model.state_dict())
    states = take_steps(engine, 4)
    students, teachers = zip(*states, strict=True)
    assert equal(teachers[0], start)
    assert equal(teachers[1], students[1])
    assert equal(teachers[2], students[1]) and not equal(students[2], students[1])
    assert equal(teachers[3], students[3])
    assert all(p.grad is None and not p.requires_grad for p in engine.teacher.model.parameters())


def test_a_teacher_is_synchronised_when_a_pass_over_the_problems_ends(open_engine, tiny_checkpoint):
    settings = {"max_total_sequence_length": 20, "lr": 1e-3, "teacher_sync_epochs": 1}
    engine = open_engine(tiny_checkpoint, PROBLEMS, **settings)  # 6 problems, 4 in a step
    students, teachers = zip(*take_steps(engine, 3), strict=True)
    assert not equal(teachers[0], students[0])
    assert equal(teachers[1], students[1])
    assert equal(teachers[2], students[2])


@pytest.mark.parametrize("knob", ["teacher_sync_steps", "teacher_sync_epochs"])
def test_a_teacher_of_another_architecture_that_is_to_be_synchronised_is_refused_at_the_start(
    open_engine, tiny_checkpoint, tmp_path, knob
):
    config = AutoConfig.from_pretrained(tiny_checkpoint)
    config.intermediate_size *= 2
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "wider")
    wider = str(tmp_path / "wider")
    open_engine(tiny_checkpoint, PROBLEMS, teacher=wider)  # as a frozen teacher it will do
    with pytest.raises(UserError, match="has another architecture"):
        open_engine(tiny_checkpoint, PROBLEMS, teacher=wider, **{knob: 1})


def test_a_teacher_synchronised_every_step_equals_the_student(open_engine, tiny_checkpoint):
    engine = open_engine(tiny_checkpoint, PROBLEMS, max_total_sequence_length=20, lr=1e-3, teacher_sync_steps=1)
    assert all(equal(student, teacher) for student, teacher in take_steps(engine, 2))


# Stopping and resuming ----------------------------------------------------------------------------------

RUN = {
    "max_num_steps": 5,
    "save_period": 3,
    "log_samples_period": 1,
    "val_period": 2,
    "val_num_samples": 2,
    "max_total_sequence_length": 22,
    "lr": 1e-3,
}


def same_file(one, other):
    return one.read_bytes() == other.read_bytes()


def without_seconds(path):
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read_jsonl(path)]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"teacher_sync_steps": 2},
        {"teacher_sync_epochs": 1, "stop_on_collapse": 1},
        {"lora_rank": 2},
        {"lora_rank": 2, "teacher_sync_steps": 2},
    ],
    ids=str,
)
def test_a_run_that_was_stopped_and_resumed_is_the_run_that_was_not(
    make_engine, coin_checkpoint, monkeypatch, more, capsys
):
    def engine(folder):
        settings = RUN | more
        validation = [problem("8", id="validation"), TOO_LONG]
        train = [*PROBLEMS, TOO_LONG]
        return make_engine(coin_checkpoint, train, validation=validation, folder=folder, **settings)

    straight = engine("straight")
    straight.run()

    stopped = engine("stopped")
    save = stopped._checkpoint

    def stop_after_step_4():  # its figures are logged, its checkpoint is not made
        if stopped.finished_steps == 4:
            raise KeyboardInterrupt
        save()

    monkeypatch.setattr(stopped, "_checkpoint", stop_after_step_4)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert len(read_jsonl(stopped.output_dir / "metrics.jsonl")) == 4
    resumed = engine("stopped")
    resumed.run()
    assert "continuing after step 3" in capsys.readouterr().out

    assert same_file(*(engine.output_dir / "student" / "model.safetensors" for engine in (resumed, straight)))
    assert equal(resumed.student.model.state_dict(), straight.student.model.state_dict())
    assert equal(resumed.teacher.model.state_dict(), straight.teacher.model.state_dict())
    for name in ("metrics.jsonl", "validation.jsonl", "samples.jsonl", "set_aside.jsonl"):
        once, again = (without_seconds(engine.output_dir / name) for engine in (straight, resumed))
        assert once and again == once, name
    assert vars(resumed.reports.health) == vars(straight.reports.health)  # the same warnings will follow
    set_aside = read_jsonl(straight.output_dir / "set_aside.jsonl")
    assert {line["purpose"] for line in set_aside} == {"train", "validation"}


def test_a_complete_run_is_left_alone(make_engine, coin_checkpoint, capsys):
    settings = RUN | {"max_num_steps": 1}
    first = make_engine(coin_checkpoint, PROBLEMS, **settings)
    first.run()
    files = {p: p.stat().st_mtime_ns for p in first.output_dir.rglob("*") if p.is_file()}
    assert read_json(first.output_dir / "run.json")["results"]["steps"] == 1
    make_engine(coin_checkpoint, PROBLEMS, **settings).run()
    assert "self-distillation is complete" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in first.output_dir.rglob("*") if p.is_file()} == files


def test_another_setting_in_the_same_folder_is_refused(make_engine, coin_checkpoint):
    make_engine(coin_checkpoint, PROBLEMS)._claim_folder()
    with pytest.raises(UserError, match="holds a run with other settings: lr was 5e-06 and is now 0.001"):
        make_engine(coin_checkpoint, PROBLEMS, lr=1e-3)._claim_folder()


def test_validation_of_which_every_sample_is_set_aside_is_said_and_does_not_stop_the_run(
    open_engine, coin_checkpoint, capsys
):
    engine = open_engine(coin_checkpoint, PROBLEMS, validation=[TOO_LONG], val_period=1)
    assert engine._validate(bar=None) == {}
    assert "every validation sample was set aside" in capsys.readouterr().out


def test_logged_samples_are_the_first_problems_and_hold_a_kl_for_each_token(open_engine, coin_checkpoint, layout):
    engine = open_engine(
        coin_checkpoint,
        PROBLEMS,
        num_prompts_per_step=6,
        train_global_batch_size=3,
        max_total_sequence_length=24,
        tokens_per_micro_batch=1,
    )
    engine._step(0)
    lines = read_jsonl(engine.output_dir / "samples.jsonl")
    assert {line["id"] for line in lines} == {PROBLEMS[index].id for index in engine.order.step(0)[:4]}
    for line in lines:
        assert len(line["kl"]) == len(line["tokens"]) > 0
        assert line["p_r"] == PHRASES[line["r"]]


# Validation ---------------------------------------------------------------------------------------------


def test_validation_comes_before_the_first_step_at_every_period_and_at_the_end(make_engine, coin_checkpoint):
    engine = make_engine(coin_checkpoint, PROBLEMS, validation=[problem("8", id="validation")], **RUN)
    engine.run()
    lines = read_jsonl(engine.output_dir / "validation.jsonl")
    assert [line["step"] for line in lines] == [-1, 1, 3, 4]
    for line in lines:
        assert line["revisions_r0"] + line["revisions_r1"] == RUN["val_num_samples"]
        assert (line["revise_r1"] is None) == (line["revisions_r1"] == 0)
    metrics = {line["step"]: line for line in read_jsonl(engine.output_dir / "metrics.jsonl")}
    assert [step for step, line in metrics.items() if "val_avg_at_k" in line] == [1, 3, 4]
    assert metrics[3]["val_revise_r0"] == lines[2]["revise_r0"]


def test_a_run_whose_validation_collapses_stops_and_hands_over_the_best_student(
    make_engine, coin_checkpoint, capsys
):
    settings = RUN | {"stop_on_collapse": 0.2, "val_period": 1, "val_num_samples": 8, "lr": 0.5}
    engine = make_engine(coin_checkpoint, PROBLEMS, validation=[problem("7", id="validation")], **settings)
    engine.run()
    lines = read_jsonl(engine.output_dir / "validation.jsonl")
    assert lines[0]["avg_at_k"] >= 0.25 and lines[-1]["avg_at_k"] == 0  # the learning rate broke it
    assert engine.finished_steps < RUN["max_num_steps"]
    assert "stopping: that is more than STOP_ON_COLLAPSE=0.2 below" in capsys.readouterr().out
    best = max(range(len(lines)), key=lambda index: lines[index]["avg_at_k"])
    assert best == 0
    assert same_file(engine.output_dir / "student" / "model.safetensors", coin_checkpoint / "model.safetensors")
    assert read_json(engine.output_dir / "run.json")["results"]["student_of_step"] == 0
    assert [path.name for path in (engine.output_dir / "best").iterdir()] == ["step_000000"]

    shutil.rmtree(engine.output_dir / "student")  # killed before it was there
    again = make_engine(coin_checkpoint, PROBLEMS, validation=[problem("7", id="validation")], **settings)
    again.run()
    assert again.finished_steps == engine.finished_steps
    assert read_jsonl(engine.output_dir / "validation.jsonl") == lines
    assert same_file(engine.output_dir / "student" / "model.safetensors", coin_checkpoint / "model.safetensors")


# A low-rank adapter -------------------------------------------------------------------------------------


def hidden(model, layout):
    return predicting_hidden(model, [TokenSequence(layout.chat("x = 1 [A] + 1"), start=1)], pad_id=0)


@torch.no_grad()
def test_with_lora_the_teacher_is_the_student_without_its_adapter(open_engine, coin_checkpoint, layout):
    engine = open_engine(coin_checkpoint, PROBLEMS, max_total_sequence_length=20, lr=1e-2, lora_rank=2)
    rows = [TokenSequence(layout.chat("x = 1 [A] + 1"), start=1)]
    srt_model = load_model(str(coin_checkpoint))
    with torch.enable_grad():
        engine._step(0)
    assert engine.teacher.model is engine.student.model  # no second copy
    torch.testing.assert_close(engine.teacher.hidden(rows, 0), hidden(srt_model, layout))
    assert not torch.allclose(hidden(engine.student.model, layout), hidden(srt_model, layout), atol=1e-2)
    names = {name for name, p in engine.student.model.named_parameters() if p.requires_grad}
    assert names and all(".lora_" in name for name in names)
    assert not any("lm_head" in name for name in names)


@torch.no_grad()
def test_a_synchronised_lora_teacher_is_the_student_of_that_step(open_engine, coin_checkpoint, layout):
    settings = {"max_total_sequence_length": 20, "lr": 1e-2, "lora_rank": 2, "teacher_sync_steps": 1}
    engine = open_engine(coin_checkpoint, PROBLEMS, **settings)
    rows = [TokenSequence(layout.chat("x = 1 [A] + 1"), start=1)]
    with torch.enable_grad():
        for step in range(2):
            engine._step(step)
            engine.finished_steps = step + 1
            engine._synchronise_teacher()
            then = hidden(engine.student.model, layout)
            torch.testing.assert_close(engine.teacher.hidden(rows, 0), then)
        engine._step(2)
    torch.testing.assert_close(engine.teacher.hidden(rows, 0), then)
    assert not torch.allclose(hidden(engine.student.model, layout), then, atol=1e-3)


@torch.no_grad()
def test_an_adapter_is_merged_into_the_weights_that_a_sampler_gets_and_the_run_hands_over(
    open_engine, coin_checkpoint, layout, tmp_path
):
    engine = open_engine(coin_checkpoint, PROBLEMS, max_total_sequence_length=20, lr=1e-2, lora_rank=2)
    with torch.enable_grad():
        engine._step(0)
    wanted = hidden(engine.student.model, layout)
    weights = dict(engine.student.weights())
    plain = load_model(str(coin_checkpoint))
    assert weights.keys() == dict(plain.named_parameters()).keys()
    plain.load_state_dict(weights, strict=False)  # the tied head goes with the embedding
    torch.testing.assert_close(hidden(plain, layout), wanted)
    engine.student.write_model(tmp_path / "merged", torch.float32)
    assert {path.suffix for path in (tmp_path / "merged").iterdir()} == {".safetensors", ".json"}
    torch.testing.assert_close(hidden(load_model(str(tmp_path / "merged")), layout), wanted)
