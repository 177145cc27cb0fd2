"""SFT through its entry point on a few tuples."""

import random
from pathlib import Path

import pytest

from srt.sft.run import train
from tests.srt.helpers.stage_files import write_stage_files


@pytest.fixture
def run_train(tiny_checkpoint, tmp_path):
    """Writes two stage files of 12 tuples each and runs SFT on them; returns the output folder."""
    draw = random.Random(0)
    write_stage_files(tmp_path / "data", 12, lambda number: 1 + (number + draw.randrange(3)) % 9)

    def run(*config: str, base: Path = tiny_checkpoint) -> Path:
        train(
            [
                f"base_model={base}",
                f"train_data_dir={tmp_path / 'data'}",
                "data_prefix=p",
                "report_to=none",
                "num_processes=1",
                f"output_dir={tmp_path / 'out'}",
                "tuples_per_update=4",
                "lr_stage1=1e-3",
                "lr_stage2=1e-3",
                "epochs_stage1=1",
                "epochs_stage2=1",
                *config,
            ]
        )
        folders = [knob.split("=", 1)[1] for knob in config if knob.startswith("output_dir=")]
        return Path(folders[-1]) if folders else tmp_path / "out"

    return run
