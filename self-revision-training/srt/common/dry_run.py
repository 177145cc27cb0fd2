"""--dry-run of every script: the resolved knobs, and GPU hours from measured rates."""

from dataclasses import dataclass
from typing import Any

from srt.config import CONFIGS, KnobLine, read_knob_table

DRY_RUN = "--dry-run"
ASSUMED_LENGTH = 0.25  # of the token limit: a rough assumption about responses that are not sampled yet


@dataclass(frozen=True)
class Rate:
    """Tokens per second on one H100 with Qwen2.5-Coder-1.5B, from a section of docs/records.md."""

    tokens_per_second: float
    section: str


MEASURED_PARAMETERS = 1.54e9
SAMPLING = Rate(23_800, "Collection: 512 problems in flight")
SFT = Rate(25_727, "SFT: packed")
# The whole step of 64 responses took 8.8 s; their median length was 381 tokens.
DISTILLATION = Rate(64 * 381 / 8.8, "Phase 2, ENGINE=local: a whole step")


def gpu_hours(tokens: float, rate: Rate, parameters: int) -> str:
    """An estimate and where it comes from; time is taken to be proportional to tokens and parameters."""
    hours = tokens / rate.tokens_per_second * parameters / MEASURED_PARAMETERS / 3600
    shown = f"{hours:.3g}" if hours >= 0.001 else "below 0.001"
    return (
        f"{shown} on H100s for {parameters / 1e9:.3g} B parameters, by {rate.tokens_per_second:,.0f} tokens/s "
        f"of 1.54 B (docs/records.md, {rate.section})"
    )


def print_knobs(config: Any, config_name: str) -> None:
    """The table of an entry point with the values of `config`."""
    print("\nknobs")
    for line in read_knob_table(CONFIGS / f"{config_name}.yaml"):
        if isinstance(line, KnobLine):
            value = getattr(config, line.key)
            shown = "null" if value is None else int(value) if isinstance(value, bool) else value
            print(f"  {line.env}={shown}")
