"""Stage files of SFT as run_srt_data.sh leaves them, with tuples whose texts only differ in length."""

from collections.abc import Callable
from pathlib import Path

from srt.collect.split import metadata_path
from srt.common.files import write_json
from srt.contract.phrases import PHRASE_SETS

PHRASES = PHRASE_SETS["qwen"]


def write_stage_files(folder: Path, tuples: int, words: Callable[[int], int]) -> None:
    """<folder>/p_stage1.json and p_stage2.json; y_revised of tuple n has words(n) words after its first."""
    for stage in (1, 2):
        path = folder / f"p_stage{stage}.json"
        records = [
            {
                "id": f"problem {number}",
                "x": f"x = {number}",
                "y_init": "A 1",
                "p_r": PHRASES.wrong,
                "y_revised": "A " + "2 " * words(number),
            }
            for number in range(tuples)
        ]
        write_json(path, records)
        write_json(metadata_path(path), {"identity": {"control_phrases": PHRASES.as_dict(), "mode": "math"}})
