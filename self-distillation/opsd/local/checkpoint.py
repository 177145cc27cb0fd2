"""Checkpoints of the local engine: everything a killed run needs to continue as if it had not been killed.

    checkpoints/step_000050/student/   weights in fp32, or the adapter
                            optimizer.pt   optimizer and learning-rate schedule
                            teacher/   only when the teacher is no longer the one the run started with
                            state.json

A folder gets its final name after its last file is written, and no folder is ever replaced.
"""

import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch

from srt.common.errors import UserError
from srt.common.files import read_json, write_json
from srt.common.resume import load_state, set_aside, why_damaged, write_sizes


class Savable(Protocol):
    """A student or a teacher."""

    def save(self, folder: Path) -> None: ...


def save_checkpoint(
    output_dir: Path,
    step: int,
    student: Savable,
    teacher: Savable | None,
    optimizer: Any,
    scheduler: Any,
    keep: int,
) -> None:
    """`step`: finished steps. `teacher`: None while it is the one that the run started with."""
    folder = output_dir / "checkpoints" / f"step_{step:06d}"
    for leftover in folder.parent.glob(".step_*.tmp"):  # of a run that was killed while it saved
        shutil.rmtree(leftover)
    temporary = folder.with_name(f".{folder.name}.tmp")
    student.save(temporary / "student")
    if teacher is not None:
        teacher.save(temporary / "teacher")
    torch.save(
        {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, temporary / "optimizer.pt"
    )
    write_json(temporary / "state.json", {"step": step, "teacher_was_synced": teacher is not None})
    write_sizes(temporary)
    os.replace(temporary, folder)
    for old in _checkpoints(output_dir)[:-keep]:
        shutil.rmtree(old)


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The newest one that is whole; damaged ones are renamed, with a line that says so."""
    for checkpoint in reversed(_checkpoints(output_dir)):
        if not (reason := why_damaged(checkpoint) or _why_no_state(checkpoint)):
            return checkpoint
        print(f"warning: {checkpoint} is damaged ({reason}); set aside as {set_aside(checkpoint).name}")
    return None


def _why_no_state(checkpoint: Path) -> str | None:
    path = checkpoint / "state.json"
    state = read_json(path) if path.is_file() else {}
    whole = type(state.get("step")) is int and isinstance(state.get("teacher_was_synced"), bool)
    return None if whole else "state.json does not say after which step it was written"


def read_state(checkpoint: Path) -> dict[str, Any]:
    return read_json(checkpoint / "state.json")


def load_optimizer(checkpoint: Path, optimizer: Any, scheduler: Any, device: torch.device) -> None:
    """Raises UserError for an optimizer of an earlier version, which had all parameters in one group."""
    state = load_state(checkpoint / "optimizer.pt", device)
    if len(state["optimizer"]["param_groups"]) != len(optimizer.param_groups):
        raise UserError(
            f"{checkpoint / 'optimizer.pt'}: written by an earlier version, whose optimizer state does not fit; "
            "finish the run with that version, or begin again in a new OUTPUT_DIR"
        )
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])


def _checkpoints(output_dir: Path) -> list[Path]:
    return sorted((output_dir / "checkpoints").glob("step_*"))
