"""The problems of Phase 1: training leaves them out, and validation problems that were trained on are named."""

from dataclasses import replace
from pathlib import Path

from opsd.config import RunConfig
from srt.collect.consumed import SRT_PROBLEMS, overlap, read_consumed, text_sha256
from srt.common.errors import UserError
from srt.contract.provenance import file_of_checkpoint, fingerprint
from srt.problems import ProblemSet


def find_srt_problems(config: RunConfig) -> Path | None:
    """The list of the problems that Phase 1 used: the knob's, or the one in the SRT checkpoint, if it has one."""
    if config.srt_problems:
        return Path(config.srt_problems)
    return file_of_checkpoint(config.student_model, SRT_PROBLEMS)


def without_srt_problems(config: RunConfig, train_set: ProblemSet, path: Path | None) -> ProblemSet:
    """With EXCLUDE_SRT_PROBLEMS, the problems that Phase 1 did not use, recognized by their text.

    Raises UserError when none is left.
    """
    if not config.exclude_srt_problems:
        return train_set
    if path is None:
        print(
            f"problems of Phase 1: {config.student_model} holds no list of them ({SRT_PROBLEMS}) and SRT_PROBLEMS "
            "is not set, so none is left out"
        )
        return train_set
    used = {problem.id for problem in overlap(train_set.problems, read_consumed(path))}
    left = [problem for problem in train_set.problems if problem.id not in used]
    if not left:
        raise UserError(
            f"EXCLUDE_SRT_PROBLEMS=1 leaves no problem: Phase 1 used all {len(used)} of the training set "
            f"({path}); set TRAIN_DATASET to other problems, or EXCLUDE_SRT_PROBLEMS=0 to train on the same ones"
        )
    total = len(train_set.problems)
    print(f"problems of Phase 1: {len(used)} of {total} are left out, {len(left)} are left ({path})")
    if not used:
        return train_set
    return replace(
        train_set,
        problems=left,
        fingerprint=fingerprint(train_set.fingerprint, *sorted(used)),
        examples_only=train_set.examples_only - used,
    )


def name_overlaps(validation_set: ProblemSet, train_set: ProblemSet, path: Path | None) -> None:
    """A warning for each training set, Phase 1's and this one's, that shares problems with validation."""
    here = {text_sha256(problem.x): problem.id for problem in train_set.problems}
    for phase, used in (("Phase 1", read_consumed(path) if path else {}), ("Phase 2", here)):
        if shared := overlap(validation_set.problems, used):
            print(
                f"warning: {len(shared)} of {len(validation_set.problems)} validation problems are also training "
                f"problems of {phase} (the first: {shared[0].id}), so validation does not measure new problems"
            )
