"""The pairs that the knobs name."""

import pytest

from opsd.localize.config import LocalizeConfig, ModelPair, model_pairs
from srt.common.errors import UserError
from srt.config import load_config


def pairs(*knobs, student=None, teacher=None):
    return model_pairs(load_config(LocalizeConfig, "localize", list(knobs)), student, teacher)


def test_a_student_is_its_own_teacher():
    assert pairs("student_model=ckpts/srt") == [ModelPair("srt", "ckpts/srt", "ckpts/srt")]


def test_one_teacher_reads_all_students_or_each_has_its_own():
    both = pairs("student_model=a, b", "teacher_model=t")
    assert [(pair.student, pair.teacher) for pair in both] == [("a", "t"), ("b", "t")]
    own = pairs("student_model=a,b", "teacher_model=a,t", "pair_names=first,second one")
    assert own == [ModelPair("first", "a", "a"), ModelPair("second one", "b", "t")]


def test_names_say_which_folder_a_checkpoint_is_in_and_stay_different():
    students = "student_model=r/base,r/srt/stage2,r/run/student,x/base"
    assert [pair.name for pair in pairs(students)] == ["base 1", "srt-stage2", "run-student", "base 4"]
    assert pairs("student_model=a/b", "teacher_model=c/d")[0].name == "b - d"


def test_a_runs_models_are_the_defaults():
    assert pairs(student="s", teacher="t") == [ModelPair("s - t", "s", "t")]
    assert pairs("student_model=x", student="s", teacher="t") == [ModelPair("x", "x", "x")]
    assert pairs("teacher_model=x", student="s", teacher="t") == [ModelPair("s - x", "s", "x")]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ([], "STUDENT_MODEL is not set"),
        (["student_model= ,"], "STUDENT_MODEL is not set"),
        (["student_model=a,b,c", "teacher_model=t,u"], "TEACHER_MODEL lists 2 items and STUDENT_MODEL 3"),
        (["student_model=a,b", "pair_names=x"], "PAIR_NAMES lists 1 items and STUDENT_MODEL 2"),
        (["student_model=a,b", "pair_names=x,x"], "'x' stands twice"),
        (["student_model=a", "pair_names=../x"], "'../x' cannot name a folder"),
        (["student_model=a", "pair_names=.."], "'..' cannot name a folder"),
    ],
)
def test_contradictions_are_one_sentence(knobs, message):
    with pytest.raises(UserError, match=message):
        pairs(*knobs)
