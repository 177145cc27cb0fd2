"""Phase 1: two-stage SFT. Knobs: configs/sft.yaml, or --help."""

from srt.errors import run_entry_point
from srt.sft import train

if __name__ == "__main__":
    run_entry_point(train)
