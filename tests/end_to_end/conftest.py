"""Shared by the end-to-end tests: the toy task, and one uninterrupted run of the full pipeline on it."""

import os
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from tests.end_to_end.commands import ENTRY_POINTS, REPOSITORY, Knobs, Outcome, run_script
from tests.end_to_end.toy_task import MAX_TOKENS, save_answering_model, write_problems


@pytest.fixture(scope="session")
def built_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """built_once(name, make) -> the folder that make(folder) filled, shared by all workers of pytest -n."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def build(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return build


@pytest.fixture(scope="session")
def answering_model(built_once) -> Path:
    """A tiny checkpoint that gets about half of the toy problems right; read-only."""
    return built_once("toy-base", save_answering_model)


@dataclass(frozen=True)
class Run:
    """Knobs and folders of the full run; a step's knobs with another OUTPUT_DIR repeat it elsewhere."""

    folder: Path
    base: Path

    @property
    def problems(self) -> Path:
        return self.folder / "problems.jsonl"

    @property
    def sampling(self) -> Knobs:
        return {
            "SAMPLER": "transformers",
            "SAMPLER_BATCH": 4,
            "BATCH_SIZE": 8,
            "MAX_TOKENS": MAX_TOKENS,
            "TOP_P": 1.0,
            "GRADING_WORKERS": 1,
        }

    @property
    def collection(self) -> Knobs:
        return self.sampling | {
            "MODEL_PATH": self.base,
            "DATASET": self.problems,
            "PROMPT_SUFFIX": "",
            "NUM_RESPONSES": 2,
            "NUM_REVISIONS": 2,
            "REVISE_CORRECT": 1,
            "TARGET_REVISION_SAMPLES": 36,
            "STAGE1_SIZE": 20,
            "STAGE2_SIZE": 10,
            "DATA_PREFIX": "little",
            "OUTPUT_DIR": self.folder / "collection",
            "TRAIN_DATA_DIR": self.folder / "train_data",
        }

    @property
    def sft(self) -> Knobs:
        return {
            "BASE_MODEL": self.base,
            "DATA_PREFIX": "little",
            "TRAIN_DATA_DIR": self.folder / "train_data",
            "OUTPUT_DIR": self.folder / "srt",
            "EPOCHS_STAGE1": 8,
            "EPOCHS_STAGE2": 12,
            "LR_STAGE1": 1e-3,
            "LR_STAGE2": 1e-3,
            "BATCH_SIZE_PER_DEVICE": 4,
            "TUPLES_PER_UPDATE": 4,
            "GRADIENT_CHECKPOINTING": 0,
            "SAVE_STEPS": 4,
            "NUM_PROCESSES": 1,
        }

    @property
    def distillation(self) -> Knobs:
        return {
            "ENGINE": "local",
            "SAMPLER": "transformers",
            "STUDENT_MODEL": self.folder / "srt" / "stage2",
            "TRAIN_DATASET": self.problems,
            "VAL_DATASET": self.problems,
            "VAL_PERIOD": 4,
            "VAL_NUM_SAMPLES": 1,
            "MAX_TOTAL_SEQUENCE_LENGTH": 48,
            "NUM_PROMPTS_PER_STEP": 8,
            "TRAIN_GLOBAL_BATCH_SIZE": 4,
            "MAX_NUM_STEPS": 10,
            "LR": 1e-3,
            "SAVE_PERIOD": 2,
            "EXCLUDE_SRT_PROBLEMS": 0,  # Phase 1 used them all
            "TEACHER_SYNC": "steps",
            "TEACHER_SYNC_STEPS": 3,
            "LOG_SAMPLES_PERIOD": 1,
            "GRADIENT_CHECKPOINTING": 0,
            "GRADING_WORKERS": 1,
            "OUTPUT_DIR": self.folder / "sd_zero",
        }

    @property
    def evaluation(self) -> Knobs:
        return self.sampling | {
            "MODEL_PATH": self.folder / "sd_zero" / "student",
            "DATASET": self.problems,
            "MAX_SAMPLES": 12,
            "NUM_SAMPLES": 2,
            "SAMPLER_BATCH": 64,
            "OUTPUT_DIR": self.folder / "evaluation" / "sd_zero",
        }

    @property
    def report(self) -> Knobs:
        return {
            "COLLECTION": self.folder / "collection",
            "SRT": self.folder / "srt",
            "DISTILLATION": self.folder / "sd_zero",
            "EVALUATION": self.folder / "evaluation",
            "OUTPUT_DIR": self.folder / "report",
        }

    @property
    def steps(self) -> list[tuple[str, Knobs]]:
        return [
            ("run_srt_data", self.collection),
            ("sft", self.sft),
            ("distill", self.distillation),
            ("evaluate", self.evaluation),
            ("report", self.report),
        ]

    def output(self, step: str) -> str:
        """What a step printed."""
        return (self.folder / f"{step}.out").read_text()


def same_weights(folder: Path, other: Path) -> bool:
    """Bit for bit."""
    first, second = (load_file(path / "model.safetensors") for path in (folder, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


BROKEN_LINE = '{"id": "broken", "problem": "x = '


@pytest.fixture(scope="session")
def full_run(built_once, answering_model) -> Run:
    """The full pipeline through the scripts, from data to report; read-only: copy what you change."""

    def make(folder: Path) -> None:
        run = Run(folder, answering_model)
        write_problems(run.problems, 60)
        with run.problems.open("a") as file:
            file.write(BROKEN_LINE + "\n")
        for step, config in run.steps:
            outcome = run_script(step, config)
            assert outcome.code == 0, (step, outcome)
            (folder / f"{step}.out").write_text(outcome.out)

    return Run(built_once("full-run", make), answering_model)


@pytest.fixture
def call(monkeypatch, capfd) -> Callable[..., Outcome]:
    """call(entry_point, knobs, *arguments) runs the entry point's file as a program in this process."""

    def call(entry_point: str, config: Knobs, *arguments: str) -> Outcome:
        path = REPOSITORY / ENTRY_POINTS[entry_point]
        capfd.readouterr()
        code = 0
        with monkeypatch.context() as patch:
            for name, value in config.items():
                patch.setenv(name, str(value))
            patch.setattr(sys, "argv", [str(path), *arguments])
            try:
                runpy.run_path(str(path), run_name="__main__")
            except SystemExit as stop:
                code = stop.code or 0
        return Outcome(code, *capfd.readouterr())

    return call
