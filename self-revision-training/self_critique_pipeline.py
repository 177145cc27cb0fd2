"""Phase 1: collect D_revision. Knobs: configs/srt_data.yaml, or --help."""

from srt.errors import run_entry_point
from srt.pipeline import collect

if __name__ == "__main__":
    run_entry_point(collect)
