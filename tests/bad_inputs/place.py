"""Valid knobs and files for each entry point in a folder of its own, and ways to spoil one of them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from srt.collect.split import metadata_path
from srt.contract.phrases import PHRASE_SETS
from tests.end_to_end.commands import Knobs
from tests.end_to_end.toy_task import write_problems

QWEN = PHRASE_SETS["qwen"]
TUPLE = {"x": "x = 1", "y_init": "a", "p_r": QWEN.wrong, "y_revised": "b"}
IDENTITY = {"identity": {"control_phrases": QWEN.as_dict(), "mode": "math"}}
DATA_KNOB = {"collect": "DATASET", "evaluate": "DATASET", "distill": "TRAIN_DATASET"}
MODEL_KNOB = {"collect": "MODEL_PATH", "evaluate": "MODEL_PATH", "sft": "BASE_MODEL", "distill": "STUDENT_MODEL"}
Content = bytes | str | Any  # anything else is written as JSON


@dataclass
class Place:
    """`folder`: of the test; `tiny`: an untrained checkpoint, which is only copied."""

    folder: Path
    tiny: Path
    entry_point: str

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def good(self) -> Knobs:
        """Knobs with which the entry point would run, and the files that they name."""
        problems = self.folder / "problems.jsonl"
        if not problems.exists():
            write_problems(problems, 4)
        sampling: Knobs = {"SAMPLER": "transformers", "MAX_TOKENS": 4, "GRADING_WORKERS": 1}
        output: Knobs = {"OUTPUT_DIR": self.output}
        data: Knobs = {"DATA_PREFIX": "d", "TRAIN_DATA_DIR": self.folder}
        sources: Knobs = {"MODEL_PATH": self.tiny, "DATASET": problems}
        if self.entry_point == "sft":
            for stage in (1, 2):
                if not self.stage_file(stage).exists():
                    self.write(f"d_stage{stage}.json", [TUPLE])
            return {"BASE_MODEL": self.tiny, "REPORT_TO": "none"} | data | output
        return {
            "collect": sources | sampling | output | data,
            "prepare": sources | data | output,
            "distill": {
                "STUDENT_MODEL": self.tiny,
                "TRAIN_DATASET": problems,
                "VAL_PERIOD": 0,
                "REPORT_TO": "none",
            }
            | sampling
            | output,
            "evaluate": sources | sampling | output,
            "report": {"COLLECTION": self.folder} | output,
        }[self.entry_point]

    def stage_file(self, stage: int) -> Path:
        return self.folder / f"d_stage{stage}.json"

    # Ways to spoil ----------------------------------------------------------------------------------------

    def write(self, name: str, content: Content) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes | str):
            content = json.dumps(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def data(self, name: str, content: Content) -> Knobs:
        return {DATA_KNOB[self.entry_point]: self.write(name, content)}

    def records(self, *records: Any) -> Knobs:
        return self.data("spoiled.jsonl", "\n".join(json.dumps(record) for record in records))

    def model(self, *changes: Callable[[Path], Any]) -> Knobs:
        """A copy of the checkpoint, with these changes."""
        copy = shutil.copytree(self.tiny, self.folder / "model")
        for change in changes:
            change(copy)
        return {MODEL_KNOB[self.entry_point]: copy}

    def model_file(self, name: str, content: Content) -> Knobs:
        return self.model(lambda model: self.write(f"model/{name}", content))

    def stage(self, content: Content, metadata: Content | None = None, stage: int = 1) -> Knobs:
        path = self.write(f"d_stage{stage}.json", content)
        if metadata is not None:
            self.write(metadata_path(path).name, metadata)
        return {}

    def outputs(self, **files: Content) -> Knobs:
        """Files in OUTPUT_DIR; a double underscore stands for the dot of a name."""
        for name, content in files.items():
            self.write(f"output/{name.replace('__', '.')}", content)
        return {}


@dataclass(frozen=True)
class Case:
    """`spoil` returns the knobs that replace good ones; the error must contain `sentence`."""

    name: str
    entry_point: str
    spoil: Callable[[Place], Knobs]
    sentence: str
    arguments: tuple[str, ...] = field(default=())


def change_weights(model: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(model / "model.safetensors")
    change(weights)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
