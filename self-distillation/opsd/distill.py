"""Phase 2: knobs -> problems, layout and engine -> run."""

from dataclasses import replace
from pathlib import Path

import torch

from opsd.config import DistillConfig, check
from opsd.select_engine import check_trainer_backend, choose_engine
from srt.common.errors import UserError
from srt.common.models import load_tokenizer
from srt.config import load_config
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.paths import dataset_or_default, distillation_dir, newest_stage2
from srt.contract.provenance import tokenizer_fingerprint
from srt.problems import load_problems
from srt.verifiers.factory import check_verifier


def distill(argv: list[str]) -> None:
    """Distill the SRT model into itself; the result is <output_dir>/student."""
    config = load_config(DistillConfig, "distill", argv)
    check(config)
    check_verifier(config)
    engine, reason = choose_engine(config.engine, torch.cuda.device_count(), config.num_nodes)
    print(f"engine: {engine} ({reason})")
    check_trainer_backend(config.trainer_backend, engine)
    config = _with_models(replace(config, engine=engine))
    layout = layout_of_checkpoint(config.student_model, config)
    _check_teacher(config, layout.tokenizer)
    dataset, subset = dataset_or_default(config.mode, config.train_dataset, config.train_subset)
    train = load_problems(dataset, config.mode, subset, config.train_split)
    validation = (
        load_problems(config.val_dataset, config.mode, None, config.val_split) if config.val_period else None
    )
    output_dir = distillation_dir(config.output_dir, config.student_model)
    print(f"{len(train.problems)} problems; output: {output_dir}")
    if validation and validation.bad:
        first = validation.bad[0]
        print(f"validation without {len(validation.bad)} unreadable records ({first['place']}: {first['reason']})")

    engine_class(config.engine)(config, layout, train, validation, Path(output_dir)).run()


def engine_class(name: str) -> type:
    """Heavy imports happen here, once everything that can be wrong before has been checked."""
    if name == "nemo-rl":
        from opsd.nemo_rl.driver import runtime

        runtime.prepare()
        from opsd.nemo_rl.driver.engine import NemoEngine

        return NemoEngine
    from opsd.local.engine import LocalEngine

    return LocalEngine


def _with_models(config: DistillConfig) -> DistillConfig:
    """Fills in STUDENT_MODEL and TEACHER_MODEL. Raises UserError when there is no SRT checkpoint."""
    if config.student_model is None:
        newest = newest_stage2()
        if newest is None:
            raise UserError("STUDENT_MODEL is not set and no stage-2 checkpoint was found; run sft.sh first")
        print(f"student: {newest} (the newest stage-2 checkpoint)")
        config = replace(config, student_model=str(newest))
    return replace(config, teacher_model=config.teacher_model or config.student_model)


def _check_teacher(config: DistillConfig, student_tokenizer) -> None:
    if config.teacher_model != config.student_model:
        teacher_tokenizer = load_tokenizer(config.teacher_model)
        if tokenizer_fingerprint(teacher_tokenizer) != tokenizer_fingerprint(student_tokenizer):
            raise UserError(
                f"TEACHER_MODEL={config.teacher_model}: its tokenizer differs from the student's, so their "
                "distributions cannot be compared token by token"
            )
