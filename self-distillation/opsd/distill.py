"""Phase 2: knobs -> problems, layout and engine -> run."""

from pathlib import Path

import torch

from opsd.config import DistillKnobs, check
from opsd.select_engine import check_trainer_backend, choose_engine
from srt.common.errors import UserError
from srt.common.models import load_tokenizer
from srt.config import load_knobs
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.paths import dataset_or_default, distillation_dir, newest_stage2
from srt.contract.provenance import tokenizer_fingerprint
from srt.problems import load_problems
from srt.verifiers.factory import check_verifier


def distill(argv: list[str]) -> None:
    """Distill the SRT model into itself; the result is <output_dir>/student."""
    knobs = load_knobs(DistillKnobs, "distill", argv)
    check(knobs)
    check_verifier(knobs)
    knobs.engine, reason = choose_engine(knobs.engine, torch.cuda.device_count(), knobs.num_nodes)
    print(f"engine: {knobs.engine} ({reason})")
    check_trainer_backend(knobs.trainer_backend, knobs.engine)
    _choose_models(knobs)
    layout = layout_of_checkpoint(
        knobs.student_model, knobs.mode, knobs.control_phrases, knobs.system_prompt, knobs.prompt_suffix,
        knobs.chat_template_kwargs,
    )  # fmt: skip
    _check_teacher(knobs, layout.tokenizer)
    dataset, subset = dataset_or_default(knobs.mode, knobs.train_dataset, knobs.train_subset)
    train = load_problems(dataset, knobs.mode, subset, knobs.train_split)
    validation = load_problems(knobs.val_dataset, knobs.mode, None, knobs.val_split) if knobs.val_period else None
    output_dir = distillation_dir(knobs.output_dir, knobs.student_model)
    print(f"{len(train.problems)} problems; output: {output_dir}")
    if validation and validation.bad:
        first = validation.bad[0]
        print(f"validation without {len(validation.bad)} unreadable records ({first['place']}: {first['reason']})")

    engine = engine_class(knobs.engine)
    engine(knobs, layout, train, validation, Path(output_dir)).run()


def engine_class(name: str) -> type:
    """Heavy imports happen here, once everything that can be wrong before has been checked."""
    if name == "nemo-rl":
        from opsd.nemo_rl.driver import runtime

        runtime.prepare()
        from opsd.nemo_rl.driver.engine import NemoEngine

        return NemoEngine
    from opsd.local.engine import LocalEngine

    return LocalEngine


def _choose_models(knobs: DistillKnobs) -> None:
    """Fill in STUDENT_MODEL and TEACHER_MODEL. Raises UserError when there is no SRT checkpoint."""
    if knobs.student_model is None:
        newest = newest_stage2()
        if newest is None:
            raise UserError("STUDENT_MODEL is not set and no stage-2 checkpoint was found; run sft.sh first")
        print(f"student: {newest} (the newest stage-2 checkpoint)")
        knobs.student_model = str(newest)
    if knobs.teacher_model is None:
        knobs.teacher_model = knobs.student_model


def _check_teacher(knobs: DistillKnobs, student_tokenizer) -> None:
    if knobs.teacher_model != knobs.student_model:
        teacher_tokenizer = load_tokenizer(knobs.teacher_model)
        if tokenizer_fingerprint(teacher_tokenizer) != tokenizer_fingerprint(student_tokenizer):
            raise UserError(
                f"TEACHER_MODEL={knobs.teacher_model}: its tokenizer differs from the student's, so their "
                "distributions cannot be compared token by token"
            )
