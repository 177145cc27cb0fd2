"""Phase 1: split D_revision into the two SFT stages. Knobs: configs/srt_data.yaml, or --help."""

from srt.errors import run_entry_point
from srt.sft_data import prepare

if __name__ == "__main__":
    run_entry_point(prepare)
