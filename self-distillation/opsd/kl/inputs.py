"""What `exact_kl` checks before it computes anything."""

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor

from opsd.kl.divergences import FULL_VOCAB, Vocabulary
from opsd.kl.vocab_parallel import ShardedVocabulary


def check_tensors(tensors: dict[str, Tensor]) -> None:
    """Raise ValueError for wrong shapes, dtypes and devices of exact_kl's tensors, given by argument name."""
    for role in ("student", "teacher"):
        for name in (f"{role}_hidden", f"{role}_head"):
            if tensors[name].ndim != 2:
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, expected two dimensions")
    tokens, student_width = tensors["student_hidden"].shape
    teacher_width = tensors["teacher_hidden"].shape[1]
    student_rows, teacher_rows = len(tensors["student_head"]), len(tensors["teacher_head"])
    expected = {
        "teacher_hidden": ((tokens, teacher_width), "as many tokens as student_hidden"),
        "student_head": ((student_rows, student_width), "the width of student_hidden"),
        "teacher_head": ((teacher_rows, teacher_width), "the width of teacher_hidden"),
        "student_bias": ((student_rows,), "one number for each row of student_head"),
        "teacher_bias": ((teacher_rows,), "one number for each row of teacher_head"),
        "weights": ((tokens,), "one number for each token of student_hidden"),
        "targets": ((tokens,), "one token id for each token of student_hidden"),
    }
    for name, (shape, why) in expected.items():
        if name in tensors and tensors[name].shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, expected {shape}: {why}")
    device = tensors["student_hidden"].device
    for name, x in tensors.items():
        if x.device != device:
            raise ValueError(f"{name} is on {x.device}, expected {device}, the device of student_hidden")
        if name == "targets" and (x.is_floating_point() or x.dtype == torch.bool):
            raise ValueError(f"targets has dtype {x.dtype}, expected an integer dtype")
        if name != "targets" and not x.is_floating_point():
            raise ValueError(f"{name} has dtype {x.dtype}, expected a floating-point dtype")
    if tensors["weights"].requires_grad:
        raise ValueError("weights requires a gradient, expected a constant: its gradient is not computed")


def check_targets(targets: Int[Tensor, " N"], vocab_size: int) -> None:
    bad = targets[(targets < 0) | (targets >= vocab_size)]
    if len(bad):
        raise ValueError(
            f"targets holds {int(bad[0])} at a token of non-zero weight, expected 0 to {vocab_size - 1}"
        )


def resolve_vocabulary(
    vocab_size: int | None, student_head: Tensor, teacher_head: Tensor, group: dist.ProcessGroup | None
) -> tuple[Vocabulary, int, int]:
    """The vocabulary, this process's number of vocab entries, and the total."""
    if group is not None:
        return ShardedVocabulary.from_shards(student_head, teacher_head, vocab_size, group)
    student_rows, teacher_rows = len(student_head), len(teacher_head)
    if vocab_size is None:
        if student_rows != teacher_rows:
            raise ValueError(
                f"teacher_head has {teacher_rows} rows, expected the {student_rows} of student_head (or "
                f"a vocab_size, where the two are padded differently)"
            )
        vocab_size = student_rows
    most = min(student_rows, teacher_rows)
    if not 1 <= vocab_size <= most:
        raise ValueError(f"vocab_size is {vocab_size}, expected 1 to {most}: the rows of the shorter head")
    return FULL_VOCAB, vocab_size, vocab_size
