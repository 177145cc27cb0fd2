"""What Phase 2 hands over: an ordinary Hugging Face folder that says where it comes from."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opsd.config import DistillConfig
from srt.contract.layout import Layout
from srt.contract.provenance import CHECKPOINT_METADATA, close_run, read_metadata, write_metadata


def is_complete(output_dir: Path) -> bool:
    return (output_dir / "student" / CHECKPOINT_METADATA).is_file()


def export_student(
    output_dir: Path,
    write_model: Callable[[Path], None],
    config: DistillConfig,
    layout: Layout,
    data_fingerprint: str,
    results: dict[str, Any],
) -> None:
    """Write the `results` into run.json, and <output_dir>/student, which comes last: it makes a run complete."""
    temporary = output_dir / ".student.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    write_model(temporary)
    layout.tokenizer.save_pretrained(temporary)
    write_metadata(
        temporary,
        {
            "base_model": (read_metadata(config.student_model) or {}).get("base_model", config.student_model),
            "srt_model": config.student_model,
            "mode": config.mode,
            "stage": "sd_zero",
            "control_phrases": layout.phrases.as_dict(),
            "prompt": layout.prompt.as_dict(),
            "data_fingerprint": data_fingerprint,
        },
    )
    close_run(output_dir, results)
    os.replace(temporary, output_dir / "student")
