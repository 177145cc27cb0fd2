"""distill.sh, killed in its second step with kill -9 of everything, and continued with the same command.

OUTPUT_DIR=... KILL_DELAY=20 python -m experiments.eight_gpus.kill     and the other knobs of distill.sh
"""

import os
import re
import time
from pathlib import Path
from typing import Any

from experiments.eight_gpus.processes import finished_steps, kill, last_line, require, start, wait_for_step
from experiments.one_gpu.plan import REPOSITORY
from srt.common.entry_point import run_entry_point
from srt.common.files import write_json
from srt.common.name_values import show_help

DISTILL = ["bash", str(REPOSITORY / "scripts" / "distill.sh")]
FIGURES = "figures.json"


def kill_and_continue(command: list[str], env: dict[str, str], output: Path, delay: float) -> dict[str, Any]:
    """`delay`: seconds after the first step's checkpoint. Raises UserError when it does not continue."""
    logs = [output.parent / f"{name}.log" for name in ("killed", "continued")]
    process = start(command, env, logs[0])
    try:
        wait_for_step(process, output, 1, logs[0])
        time.sleep(delay)
        killed_after = finished_steps(output)
    finally:
        kill(process)
    started = time.monotonic()
    process = start(command, env, logs[1])
    try:
        require(process.wait() == 0, f"it did not continue: {last_line(logs[1])}")
    finally:
        kill(process)
    return {
        "killed_after_step": killed_after,
        "continued_after_step": continued_after(logs[1]),
        "steps": finished_steps(output),
        "seconds_to_the_end": round(time.monotonic() - started, 1),
    }


def continued_after(log: Path) -> int:
    """The step that a log says it continues after. Raises UserError if it says none."""
    found = re.search(r"continuing after step (\d+)", log.read_text("utf-8", errors="replace"))
    require(found is not None, f"{log} does not say that it continues")
    assert found is not None
    return int(found[1])


def main(arguments: list[str]) -> None:
    show_help(arguments, __doc__)
    output = Path(os.environ["OUTPUT_DIR"])
    output.parent.mkdir(parents=True, exist_ok=True)
    figures = kill_and_continue(DISTILL, dict(os.environ), output, float(os.environ.get("KILL_DELAY", "20")))
    write_json(output.parent / FIGURES, figures)
    print(figures)


if __name__ == "__main__":
    run_entry_point(main)
