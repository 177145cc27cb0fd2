"""Phase 2: on-policy self-distillation. Knobs: configs/distill.yaml, or --help."""

from opsd.distill import distill
from srt.errors import run_entry_point

if __name__ == "__main__":
    run_entry_point(distill)
