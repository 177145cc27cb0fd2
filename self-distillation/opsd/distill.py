"""Phase 2: configuration -> problems, layout and engine -> training."""

from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from opsd.check_teacher import check_teacher
from opsd.config import DistillConfig, RunConfig, check, check_warmup
from opsd.dry_run import show_plan
from opsd.engine import Engine
from opsd.memory import memory_plan
from opsd.preflight import preflight
from opsd.replay import load_replay
from opsd.run import Run
from opsd.select_engine import check_engine, select_engine
from opsd.srt_problems import find_srt_problems, name_overlaps, without_srt_problems
from opsd.train import train
from srt.common.dry_run import DRY_RUN
from srt.common.errors import UserError
from srt.common.machine import Machine, stated_machine, this_machine
from srt.common.models import check_gpu, check_reporter, check_saving, check_token_ids, exceeds_embedding
from srt.common.remote_code import allow_remote_code
from srt.config import load_config
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.paths import dataset_or_default, distillation_dir, evaluation_or_default, newest_stage2
from srt.problems import ProblemSet, load_problems
from srt.recipe import print_recipe
from srt.verifiers.factory import check_verifier


def distill(argv: list[str]) -> None:
    """Distill the SRT model into itself; the result is <output_dir>/student.

    With --dry-run, only print what would be done.
    """
    config = load_config(DistillConfig, "distill", [argument for argument in argv if argument != DRY_RUN])
    stated = stated_machine(config.plan_for, DRY_RUN in argv)
    run = prepare(config, stated)
    if DRY_RUN in argv:
        show_plan(run, stated or this_machine())
        return
    if not run.is_complete:
        memory_plan(run, this_machine()).check(run.config.check_memory)
    if run.claim_folder():
        with closing(open_engine(run)) as engine, worker_errors(run.config):
            preflight(run, engine)
            train(run, engine)


def prepare(config: DistillConfig, stated: Machine | None = None) -> Run:
    """Everything that can be checked and read before an engine starts. Raises UserError.

    `stated`: the machine of PLAN_FOR, on which everything that an engine needs is taken to be installed.
    """
    check(config)
    allow_remote_code(config.trust_remote_code)
    check_gpu()
    check_reporter(config.report_to)
    check_verifier(config)
    print_recipe(config, "distill")
    if stated and stated.machines > 1:
        config = replace(config, num_nodes=stated.machines)
    gpus = stated.gpus if stated else torch.cuda.device_count()
    engine, reason = select_engine(config.engine, gpus, config.num_nodes, installed=stated is not None)
    print(f"engine: {engine} ({reason})")
    check_engine(config, engine, installed=stated is not None)
    val_dataset, val_split = evaluation_or_default(config.mode, config.val_dataset, config.val_split)
    config = replace(config, engine=engine, val_dataset=val_dataset, val_split=val_split)
    resolved = _with_models(config)
    output_dir = Path(distillation_dir(config.output_dir, resolved.student_model))
    layout = layout_of_checkpoint(resolved.student_model, resolved, output_dir)
    check_saving(resolved.student_model, layout.tokenizer, layout.eot_ids)
    check_teacher(resolved.student_model, resolved.teacher_model, resolved.mode, layout)
    dataset, subset = dataset_or_default(config.mode, config.train_dataset, config.train_subset)
    train_set = load_problems(dataset, config.mode, subset, config.train_split, config.min_tests)
    replay = load_replay(resolved, layout)
    srt_problems = find_srt_problems(resolved)
    train_set = without_srt_problems(resolved, train_set, srt_problems)
    print(f"{len(train_set.problems)} problems; output: {output_dir}")
    validation_set = _validation_set(config, val_dataset, val_split)
    if exceeds_embedding(resolved.student_model, layout.tokenizer):
        texts = [*train_set.problems, *(validation_set.problems if validation_set else [])]
        ids = (index for problem in texts for index in layout.chat(problem.x))
        check_token_ids(resolved.student_model, layout.tokenizer, ids)
    if validation_set:
        name_overlaps(validation_set, train_set, srt_problems)
    used = srt_problems.read_bytes() if srt_problems else None
    run = Run(resolved, layout, train_set, validation_set, output_dir, used, replay)
    check_warmup(resolved, run.total_updates)
    return run


def open_engine(run: Run) -> Engine:
    """Heavy imports happen here, after everything that can be wrong earlier has been checked."""
    if run.config.engine == "nemo-rl":
        from opsd.nemo_rl.driver import runtime

        runtime.prepare_ray(run.config)
        runtime.prepare()
        from opsd.nemo_rl.driver.engine import NemoEngine

        return NemoEngine(run)
    from opsd.local.engine import LocalEngine

    return LocalEngine(run)


def worker_errors(config: RunConfig) -> AbstractContextManager[None]:
    """Turns the loss of a worker process into one sentence, where the engine has any."""
    if config.engine != "nemo-rl":
        return nullcontext()
    from opsd.nemo_rl.driver.lost_workers import lost_workers_in_words

    return lost_workers_in_words(config.num_nodes)


def _validation_set(config: DistillConfig, dataset: str, split: str) -> ProblemSet | None:
    if not config.val_period:
        return None
    problems = load_problems(dataset, config.mode, None, split, config.min_tests)
    if problems.bad:
        first = problems.bad[0]
        print(
            f"validation leaves out {len(problems.bad)} unreadable records (the first: {first['place']}: "
            f"{first['reason']})"
        )
    return problems


def _with_models(config: DistillConfig) -> RunConfig:
    """STUDENT_MODEL and TEACHER_MODEL filled in. Raises UserError when there is no SRT checkpoint."""
    student = config.student_model
    if student is None:
        newest = newest_stage2()
        if newest is None:
            raise UserError("STUDENT_MODEL is not set and no stage-2 checkpoint was found; run sft.sh first")
        print(f"student: {newest} (the newest stage-2 checkpoint)")
        student = str(newest)
    models: dict[str, Any] = {"student_model": student, "teacher_model": config.teacher_model or student}
    return RunConfig(**(vars(config) | models))
