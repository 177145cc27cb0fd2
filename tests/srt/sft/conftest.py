"""SFT through its entry point on a few tuples."""

import random
from pathlib import Path

import pytest

from srt.collect.split import metadata_path
from srt.common.files import write_json
from srt.contract.phrases import PHRASE_SETS
from srt.sft.run import train

PHRASES = PHRASE_SETS["qwen"]


@pytest.fixture
def run_train(tiny_checkpoint, tmp_path):
    """Writes two stage files of 12 tuples each and runs SFT on them; returns the output folder."""
    draw = random.Random(0)
    for stage in (1, 2):
        path = tmp_path / "data" / f"p_stage{stage}.json"
        records = [
            {
                "id": f"problem {number}",
                "x": f"x = {number}",
                "y_init": "A 1",
                "p_r": PHRASES.wrong,
                "y_revised": "A " + "2 " * (1 + (number + draw.randrange(3)) % 9),
            }
            for number in range(12)
        ]
        write_json(path, records)
        write_json(metadata_path(path), {"identity": {"control_phrases": PHRASES.as_dict(), "mode": "math"}})

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
