"""Checkpoints to resume from: what is damaged gives way to the one before."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from opsd.local.checkpoint import newest_checkpoint
from srt.common.errors import UserError
from srt.common.resume import load_state, set_aside, why_damaged, write_sizes
from srt.sft.callbacks import COMPLETE
from srt.sft.stages import _newest_complete_checkpoint

Damage = Callable[[Path], object]


def write_checkpoint(folder: Path, step: int) -> Path:
    """With what both trainings write: weights, an optimizer, a state."""
    (folder / "student").mkdir(parents=True)
    save_file({"weight": torch.ones(8)}, folder / "student" / "model.safetensors")
    torch.save({"step": torch.tensor(step)}, folder / "optimizer.pt")
    (folder / "state.json").write_text(json.dumps({"step": step, "teacher_was_synced": False}))
    write_sizes(folder)
    (folder / COMPLETE).write_text("{}")
    return folder


def cut(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-5])


def overwrite(name: str, content: str | None = None) -> Damage:
    """With content of the same size, unless it is given; then the sizes are written again."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_bytes(b"x" * path.stat().st_size if content is None else content.encode())
        if content is not None:
            write_sizes(folder)

    return change


DAMAGES: dict[str, tuple[Damage, str]] = {
    "weights cut off": (cut("student/model.safetensors"), "student/model.safetensors has "),
    "weights overwritten": (overwrite("student/model.safetensors"), "student/model.safetensors: "),
    "optimizer cut off": (cut("optimizer.pt"), "optimizer.pt has "),
    "optimizer overwritten": (overwrite("optimizer.pt"), "optimizer.pt: cut off or overwritten"),
    "optimizer deleted": (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "null as state": (overwrite("state.json", "null"), "state.json: expected a JSON object"),
    "half a state": (overwrite("state.json", "{"), "state.json: "),
    "sizes overwritten": (lambda folder: (folder / "sizes.json").write_text("null"), "sizes.json: "),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_older_one_in_both_phases(tmp_path, capsys, name):
    damage, reason = DAMAGES[name]
    for folder, pattern, newest in (
        (tmp_path / "checkpoints", "step_{:06d}", lambda: newest_checkpoint(tmp_path)),
        (tmp_path / "stage1.work", "checkpoint-{}", lambda: _newest_complete_checkpoint(tmp_path / "stage1.work")),
    ):
        old, new = (write_checkpoint(folder / pattern.format(step), step) for step in (2, 4))
        assert newest() == new
        damage(new)
        capsys.readouterr()
        assert newest() == old
        out = capsys.readouterr().out
        assert out.startswith(f"warning: {new} is damaged ({reason}") and f"set aside as damaged_{new.name}" in out
        assert newest() == old
        assert "warning" not in capsys.readouterr().out  # once


@pytest.mark.parametrize("state", ["{}", '{"step": "4", "teacher_was_synced": false}', '{"step": 4}'])
def test_a_state_that_does_not_say_the_step_is_damaged(tmp_path, capsys, state):
    write_checkpoint(tmp_path / "checkpoints" / "step_000002", 2)
    overwrite("state.json", state)(write_checkpoint(tmp_path / "checkpoints" / "step_000004", 4))
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "step_000002"


def test_where_none_is_whole_the_run_starts_again(tmp_path):
    cut("optimizer.pt")(write_checkpoint(tmp_path / "checkpoints" / "step_000002", 2))
    assert newest_checkpoint(tmp_path) is None


def test_a_checkpoint_of_an_earlier_version_has_no_sizes(tmp_path):
    folder = write_checkpoint(tmp_path / "old", 2)
    (folder / "sizes.json").unlink()
    assert why_damaged(folder) is None
    overwrite("optimizer.pt")(folder)
    assert why_damaged(folder) == "optimizer.pt: cut off or overwritten"


def test_several_damaged_ones_of_a_name_are_all_kept(tmp_path):
    names = [set_aside(write_checkpoint(tmp_path / "step_2", 2)).name for _ in range(3)]
    assert names == ["damaged_step_2", "damaged_step_2_2", "damaged_step_2_3"]


def test_a_file_that_is_damaged_inside_is_one_sentence(tmp_path):
    path = tmp_path / "checkpoint" / "optimizer.pt"
    path.parent.mkdir()
    torch.save({"a": torch.arange(10_000)}, path)
    data = bytearray(path.read_bytes())
    shutil.copyfile(path, tmp_path / "whole.pt")
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    data[:200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"optimizer\.pt: damaged \(.*\); delete .*checkpoint to continue"):
        load_state(path)
    assert load_state(tmp_path / "whole.pt")["a"][-1] == 9_999
