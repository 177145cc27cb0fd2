"""The knobs of localize.sh (configs/localize.yaml), and the pairs of models that they name."""

import re
from dataclasses import dataclass

from srt.common.errors import UserError
from srt.config import option, seed_option
from srt.config_groups import (
    HOW_WORK_IS_SPREAD,
    GradingConfig,
    ParallelSamplerConfig,
    ProblemFilterConfig,
    PromptConfig,
    RemoteCodeConfig,
)
from srt.contract.paths import model_name


@dataclass(frozen=True)
class LocalizeConfig(PromptConfig, ParallelSamplerConfig, GradingConfig, ProblemFilterConfig, RemoteCodeConfig):
    """See configs/localize.yaml for the meaning and default of each option."""

    student_model: str | None = option(path=True)
    teacher_model: str | None = option(path=True)
    pair_names: str | None = option()
    run: str | None = option(path=True)
    dataset: str | None = option(path=True)
    dataset_subset: str | None = option()
    dataset_split: str | None = option()
    max_samples: int = option(ge=1)
    num_samples: int = option(ge=1)
    max_teacher_tokens: int = option(ge=8)
    tokens_per_micro_batch: int = option(ge=1)
    packing: str = option(choices=("auto", "0", "1"))
    alternatives: int = option(ge=1, le=50)
    compare_phrases: bool = option()
    neutral_phrase: str = option()
    examples: int = option(ge=0)
    seed: int = seed_option()
    output_dir: str | None = option(path=True)


# What decides how the work is spread, or what of it is shown, not what comes out.
NOT_IDENTITY = (
    "student_model",  # a pair has one of them
    "teacher_model",
    "pair_names",
    "trust_remote_code",
    *HOW_WORK_IS_SPREAD,
    "tokens_per_micro_batch",
    "packing",
    "examples",
    "output_dir",
)


@dataclass(frozen=True)
class ModelPair:
    """A student and the teacher that its responses are read by. `name`: on the page, and of its folder."""

    name: str
    student: str
    teacher: str


def model_pairs(
    config: LocalizeConfig, default_student: str | None, default_teacher: str | None
) -> list[ModelPair]:
    """The pairs that STUDENT_MODEL, TEACHER_MODEL and PAIR_NAMES list; the defaults are those of RUN.

    Raises UserError when a list has another length than the students', or a name stands twice.
    """
    students = _items(config.student_model) or _items(default_student)
    if not students:
        raise UserError(
            "STUDENT_MODEL is not set: it names the model whose responses are read (several: separated by commas)"
        )
    teachers = _items(config.teacher_model)
    if not teachers:
        same = not config.student_model and default_teacher
        teachers = [str(default_teacher)] if same else students
    teachers = teachers * len(students) if len(teachers) == 1 else teachers
    names = _items(config.pair_names)
    for knob, items in (("TEACHER_MODEL", teachers), ("PAIR_NAMES", names or students)):
        if len(items) != len(students):
            raise UserError(
                f"{knob} lists {len(items)} items and STUDENT_MODEL {len(students)}: expected one for each student"
            )
    names = names or _default_names(students, teachers)
    for name in names:
        if not re.fullmatch(r"\w[\w.+ -]*", name):
            raise UserError(
                f"PAIR_NAMES: {name!r} cannot name a folder; expected letters, digits, spaces and _.+-, first a "
                "letter or digit"
            )
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"PAIR_NAMES: {sorted(repeated)[0]!r} stands twice; expected a name of its own for each pair"
        )
    return [ModelPair(*parts) for parts in zip(names, students, teachers, strict=True)]


def _items(text: str | None) -> list[str]:
    return [item.strip() for item in (text or "").split(",") if item.strip()]


def _default_names(students: list[str], teachers: list[str]) -> list[str]:
    """The folders' names; with the one above where that says too little, and numbered where they still repeat."""
    names = []
    for student, teacher in zip(students, teachers, strict=True):
        name = _short(student)
        names.append(name if student == teacher else f"{name} - {_short(teacher)}")
    return [name if names.count(name) == 1 else f"{name} {index + 1}" for index, name in enumerate(names)]


def _short(model_path: str) -> str:
    """srt/stage2 -> srt-stage2; a folder's name such as `student` says nothing without the one above."""
    name = model_name(model_path)
    parents = [part for part in model_path.rstrip("/").split("/")[:-1] if part not in ("", ".", "..")]
    if re.fullmatch(r"stage[12]|student|teacher|step_\d+", name) and parents:
        name = f"{parents[-1]}-{name}"
    return re.sub(r"[^\w.+-]", "-", name)
