"""The local engine's teachers: frozen, synced, and the student without its adapter."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from opsd.hidden_states import predicting_hidden
from srt.common.errors import UserError
from srt.common.models import load_model
from srt.contract.layout import TokenSequence
from tests.opsd.helpers.problems import PROBLEMS
from tests.opsd.helpers.states import equal


def every(steps):
    return {"teacher_sync": "steps", "teacher_sync_steps": steps}


# A frozen model --------------------------------------------------------------------------------------------


def take_steps(opened, count):
    """The states of student and teacher after each step."""
    states = []
    for step in range(count):
        opened.step(step)
        models = (opened.engine.student.model, opened.engine.teacher.model)
        states.append(tuple(copy.deepcopy(model.state_dict()) for model in models))
    return states


def test_a_frozen_teacher_gets_no_gradient_and_stays_what_it_was(open_run, tiny_checkpoint):
    opened = open_run(tiny_checkpoint, PROBLEMS, max_total_sequence_length=20, lr=1e-3)
    start = copy.deepcopy(opened.engine.teacher.model.state_dict())
    student, teacher = take_steps(opened, 2)[-1]
    assert equal(teacher, start)
    assert not equal(student, start)
    assert all(p.grad is None and not p.requires_grad for p in opened.engine.teacher.model.parameters())


def test_a_teacher_that_is_synchronised_is_the_student_of_that_step_until_the_next_time(open_run, tiny_checkpoint):
    opened = open_run(tiny_checkpoint, PROBLEMS, max_total_sequence_length=20, lr=1e-3, **every(2))
    start = copy.deepcopy(opened.engine.teacher.model.state_dict())
    states = take_steps(opened, 4)
    students, teachers = zip(*states, strict=True)
    assert equal(teachers[0], start)
    assert equal(teachers[1], students[1])
    assert equal(teachers[2], students[1]) and not equal(students[2], students[1])
    assert equal(teachers[3], students[3])
    assert all(p.grad is None and not p.requires_grad for p in opened.engine.teacher.model.parameters())


def test_a_teacher_is_synchronised_when_a_pass_over_the_problems_ends(open_run, tiny_checkpoint):
    settings = {"max_total_sequence_length": 20, "lr": 1e-3, "teacher_sync": "epochs", "teacher_sync_epochs": 1}
    opened = open_run(tiny_checkpoint, PROBLEMS, **settings)  # 6 problems, 4 in a step
    students, teachers = zip(*take_steps(opened, 3), strict=True)
    assert not equal(teachers[0], students[0])
    assert equal(teachers[1], students[1])
    assert equal(teachers[2], students[2])


@pytest.mark.parametrize("way", ["steps", "epochs", "plateau"])
def test_a_teacher_of_another_architecture_that_is_to_be_synchronised_is_refused_at_the_start(
    open_run, tiny_checkpoint, tmp_path, way
):
    config = AutoConfig.from_pretrained(tiny_checkpoint)
    config.intermediate_size *= 2
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "wider")
    wider = str(tmp_path / "wider")
    open_run(tiny_checkpoint, PROBLEMS, teacher=wider)  # as a frozen teacher it will do
    with pytest.raises(UserError, match="has another architecture"):
        open_run(tiny_checkpoint, PROBLEMS, teacher=wider, teacher_sync=way, teacher_sync_epochs=1)


def test_a_teacher_synchronised_every_step_equals_the_student(open_run, tiny_checkpoint):
    opened = open_run(tiny_checkpoint, PROBLEMS, max_total_sequence_length=20, lr=1e-3, **every(1))
    assert all(equal(student, teacher) for student, teacher in take_steps(opened, 2))


# A low-rank adapter -------------------------------------------------------------------------------------


def hidden(model, layout):
    return predicting_hidden(model, [TokenSequence(layout.chat("x = 1 [A] + 1"), start=1)], pad_id=0)


@torch.no_grad()
def test_with_lora_the_teacher_is_the_student_without_its_adapter(open_run, coin_checkpoint, layout):
    opened = open_run(coin_checkpoint, PROBLEMS, max_total_sequence_length=20, lr=1e-2, lora_rank=2)
    sequences = [TokenSequence(layout.chat("x = 1 [A] + 1"), start=1)]
    srt_model = load_model(str(coin_checkpoint))
    with torch.enable_grad():
        opened.step(0)
    assert opened.engine.teacher.model is opened.engine.student.model  # no second copy
    torch.testing.assert_close(opened.engine.teacher.hidden(sequences, 0), hidden(srt_model, layout))
    assert not torch.allclose(hidden(opened.engine.student.model, layout), hidden(srt_model, layout), atol=1e-2)
    names = {name for name, p in opened.engine.student.model.named_parameters() if p.requires_grad}
    assert names and all(".lora_" in name for name in names)
    assert not any("lm_head" in name for name in names)


@torch.no_grad()
def test_a_synchronised_lora_teacher_is_the_student_of_that_step(open_run, coin_checkpoint, layout):
    settings = {"max_total_sequence_length": 20, "lr": 1e-2, "lora_rank": 2} | every(1)
    opened = open_run(coin_checkpoint, PROBLEMS, **settings)
    sequences = [TokenSequence(layout.chat("x = 1 [A] + 1"), start=1)]
    with torch.enable_grad():
        for step in range(2):
            opened.step(step)
            then = hidden(opened.engine.student.model, layout)
            torch.testing.assert_close(opened.engine.teacher.hidden(sequences, 0), then)
        opened.output(2)  # without another sync
    torch.testing.assert_close(opened.engine.teacher.hidden(sequences, 0), then)
    assert not torch.allclose(hidden(opened.engine.student.model, layout), then, atol=1e-3)


@torch.no_grad()
def test_an_adapter_is_merged_into_the_weights_that_a_sampler_gets_and_the_run_hands_over(
    open_run, coin_checkpoint, layout, tmp_path
):
    opened = open_run(coin_checkpoint, PROBLEMS, max_total_sequence_length=20, lr=1e-2, lora_rank=2)
    with torch.enable_grad():
        opened.step(0)
    wanted = hidden(opened.engine.student.model, layout)
    weights = dict(opened.engine.student.named_weights())
    plain = load_model(str(coin_checkpoint))
    assert weights.keys() == dict(plain.named_parameters()).keys()
    plain.load_state_dict(weights, strict=False)  # the tied head goes with the embedding
    torch.testing.assert_close(hidden(plain, layout), wanted)
    opened.engine.student.export(tmp_path / "merged", torch.float32)
    assert {path.suffix for path in (tmp_path / "merged").iterdir()} == {".safetensors", ".json"}
    torch.testing.assert_close(hidden(load_model(str(tmp_path / "merged")), layout), wanted)
