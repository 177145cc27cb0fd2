"""Checkpoints: complete or not there, the newest is found, and they hold all that a run needs."""

import copy

import pytest
import torch
from transformers import get_scheduler

from opsd.local.checkpoint import load_optimizer, newest_checkpoint, read_state, save_checkpoint
from srt.common.errors import UserError
from srt.common.models import load_model
from srt.common.optimizer import AdamW


class Saved:
    def __init__(self, model):
        self.save = model.save_pretrained


class Run:
    """A model in training."""

    def __init__(self, model):
        self.student = copy.deepcopy(model).train()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-2)
        self.scheduler = get_scheduler("linear", self.optimizer, 0, 10)

    def update(self, step):
        ids = torch.randint(0, 100, (2, 6), generator=torch.Generator().manual_seed(step))
        self.optimizer.zero_grad()
        self.student(input_ids=ids, labels=ids).loss.backward()
        self.optimizer.step()
        self.scheduler.step()

    def save(self, folder, step, teacher=None, keep=10):
        teacher = teacher and Saved(teacher)
        save_checkpoint(folder, step, Saved(self.student), teacher, self.optimizer, self.scheduler, keep)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_model(str(tiny_checkpoint))


@pytest.fixture
def run(model):
    return Run(model)


def saved(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_no_checkpoint_is_no_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path) is None


def test_the_newest_is_chosen_and_knows_its_step(run, tmp_path):
    for step in (2, 10, 9):
        run.save(tmp_path, step)
    newest = newest_checkpoint(tmp_path)
    assert newest.name == "step_000010"
    assert read_state(newest) == {"step": 10, "teacher_was_synced": False}


def test_a_checkpoint_that_was_cut_off_is_ignored_and_later_removed(run, tmp_path, monkeypatch):
    run.save(tmp_path, 1)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)  # the weights are written, the optimizer is not
        with pytest.raises(KeyboardInterrupt):
            run.save(tmp_path, 2)
    assert len(saved(tmp_path)) == 2
    assert newest_checkpoint(tmp_path).name == "step_000001"
    run.save(tmp_path, 3)
    assert saved(tmp_path) == ["step_000001", "step_000003"]


@pytest.mark.parametrize("keep", [1, 2])
def test_only_the_newest_are_kept(run, tmp_path, keep):
    for step in (1, 2, 3, 4):
        run.save(tmp_path, step, keep=keep)
    assert saved(tmp_path) == [f"step_{step:06d}" for step in (1, 2, 3, 4)[-keep:]]


def test_training_goes_on_as_if_it_had_not_stopped(model, tmp_path):
    straight = Run(model)
    for step in range(6):
        straight.update(step)
        if step == 2:
            straight.save(tmp_path, 3)
    newest = newest_checkpoint(tmp_path)
    resumed = Run(load_model(str(newest / "student"), "float32"))
    load_optimizer(newest, resumed.optimizer, resumed.scheduler, torch.device("cpu"))
    for step in range(3, 6):
        resumed.update(step)
    assert resumed.scheduler.get_last_lr() == straight.scheduler.get_last_lr()
    for (name, got), wanted in zip(resumed.student.named_parameters(), straight.student.parameters(), strict=True):
        assert torch.equal(got, wanted), name


def test_an_optimizer_of_an_earlier_version_is_refused_in_one_sentence(run, model, tmp_path):
    run.save(tmp_path, 1)
    now = AdamW(model.parameters(), weight_decay=0.0)  # matrices and vectors apart
    with pytest.raises(UserError, match="optimizer.pt: written by an earlier version"):
        load_optimizer(newest_checkpoint(tmp_path), now, run.scheduler, torch.device("cpu"))


def test_a_teacher_is_saved_only_when_it_is_given(run, model, tmp_path):
    run.save(tmp_path, 1)
    assert not (tmp_path / "checkpoints/step_000001/teacher").exists()
    run.update(0)
    run.save(tmp_path, 2, teacher=model)
    newest = newest_checkpoint(tmp_path)
    assert read_state(newest)["teacher_was_synced"]
    teacher = load_model(str(newest / "teacher"))
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), model.parameters(), strict=True))
