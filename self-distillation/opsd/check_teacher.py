"""Whether two checkpoints can be compared token by token."""

from srt.common.errors import UserError
from srt.common.models import load_tokenizer
from srt.contract.checkpoint import check_same_contract
from srt.contract.layout import Layout
from srt.contract.provenance import tokenizer_fingerprint


def check_teacher(student_model: str, teacher_model: str, mode: str, layout: Layout) -> None:
    """Raises UserError when the teacher has another tokenizer than the student, or was trained on other sequences.

    `layout`: the student's.
    """
    if teacher_model == student_model:
        return
    if tokenizer_fingerprint(load_tokenizer(teacher_model)) != tokenizer_fingerprint(layout.tokenizer):
        raise UserError(
            f"TEACHER_MODEL={teacher_model}: its tokenizer differs from the student's, so their "
            "distributions cannot be compared token by token"
        )
    check_same_contract(teacher_model, mode, layout)
