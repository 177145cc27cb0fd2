"""OFFLOAD=1: what is not used is in host memory, and every number is the same, bit for bit.

On a CPU the copies are not pinned.
"""

import copy

import pytest
import torch

from opsd import memory
from opsd.cpu_offload import OffGpu
from opsd.local.checkpoint import newest_checkpoint
from opsd.local.engine import LocalEngine
from srt.common.machine import Machine
from srt.common.memory_plan import GIB
from tests.opsd.helpers.problems import PROBLEMS
from tests.opsd.helpers.states import equal

SETTINGS = {"max_total_sequence_length": 20, "lr": 1e-3, "tokens_per_micro_batch": 60}
SETTINGS |= {"teacher_sync": "steps", "teacher_sync_steps": 2}


def held(tensors) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def moments(engine):
    return [x for state in engine.optimizer_step.optimizer.state.values() for x in state.values()]


def take_steps(opened, count):
    """Metrics and the student after each step; the teacher after the last one."""
    found = []
    for step in range(count):
        metrics = {name: value for name, value in opened.step(step).items() if name != "seconds"}
        found.append((metrics, copy.deepcopy(opened.engine.student.model.state_dict())))
    with opened.engine.teacher.present():
        return found, copy.deepcopy(opened.engine.teacher.model.state_dict())


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_every_number_is_the_same(open_run, tiny_checkpoint, other_checkpoint, lora_rank):
    settings = SETTINGS | {"lora_rank": lora_rank}
    if not lora_rank:
        settings["teacher_model"] = other_checkpoint
    (with_it, its_teacher), (without, teacher) = (
        take_steps(open_run(tiny_checkpoint, PROBLEMS, **settings, offload=offload), 3) for offload in "10"
    )
    for (metrics, student), (expected, expected_student) in zip(with_it, without, strict=True):
        assert metrics == expected
        assert equal(student, expected_student)
    assert equal(its_teacher, teacher)
    assert not equal(with_it[0][1], with_it[1][1])


def test_between_updates_teacher_and_moments_take_no_memory(open_run, tiny_checkpoint, monkeypatch):
    opened = open_run(tiny_checkpoint, PROBLEMS, **SETTINGS, offload=1)
    engine = opened.engine
    teacher = list(engine.teacher.model.parameters())
    forward, seen = engine.student.hidden, []

    def student_hidden(*arguments):
        seen.append(held(teacher) + held(moments(engine)))
        return forward(*arguments)

    monkeypatch.setattr(engine.student, "hidden", student_hidden)
    for step in range(2):
        assert held(teacher) == 0 and held(moments(engine)) == 0
        opened.step(step)
    assert len(seen) > 2 and not any(seen)
    with engine.teacher.present(), engine.optimizer_step.moments.present():
        assert held(teacher) > 0 and held(moments(engine)) > 0
    assert held(teacher) == 0


def test_a_checkpoint_holds_all_of_it(open_run, tiny_checkpoint, grader):
    opened = open_run(tiny_checkpoint, PROBLEMS, **SETTINGS, offload=1)
    for step in range(2):
        opened.step(step)
    engine = opened.engine
    engine.save_checkpoint(2)
    assert newest_checkpoint(opened.run.output_dir)
    resumed = LocalEngine(opened.run, grader)
    assert resumed.start_step == 2 and resumed.teacher.was_synced
    pairs = [engine.teacher.present(), engine.optimizer_step.moments.present()]
    pairs += [resumed.teacher.present(), resumed.optimizer_step.moments.present()]
    with pairs[0], pairs[1], pairs[2], pairs[3]:
        assert equal(resumed.teacher.model.state_dict(), engine.teacher.model.state_dict())
        for actual, expected in zip(moments(resumed), moments(engine), strict=True):
            assert torch.equal(actual, expected)
    resumed.close()


def test_off_by_default_on_a_cpu_and_on_where_only_that_fits(open_run, tiny_checkpoint, monkeypatch):
    run = open_run(tiny_checkpoint, PROBLEMS, **SETTINGS).run
    roomy, tight = (Machine(1, size, 64 * GIB) for size in (GIB * 2, GIB * 3 // 2))
    assert not memory.offloads(run, Machine(0, None, 64 * GIB))
    assert not memory.offloads(run, roomy)
    assert memory.offloads(run, tight)
    plan = memory.memory_plan(run, tight)
    assert "OFFLOAD=1" in plan.title and "OFFLOAD=1" not in plan.changes


def test_an_error_leaves_the_tensors_off(tiny_checkpoint):
    tensor = torch.arange(4.0)
    off = OffGpu(lambda: {"x": tensor}, enabled=True)
    with pytest.raises(ValueError), off.present():
        assert tensor.tolist() == [0, 1, 2, 3]
        raise ValueError
    assert held([tensor]) == 0
    with off.present():
        assert tensor.tolist() == [0, 1, 2, 3]
