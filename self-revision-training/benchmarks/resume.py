"""Memory and time of restarting a collection: its log is written, then restored in a fresh process.

    PYTHONPATH=self-revision-training:. python self-revision-training/benchmarks/resume.py [attempts] [kilobytes]

`attempts` (default 100 000): responses and revisions together, half of each, a third of the revisions right.
`kilobytes` (default 10): of one line of attempts.jsonl. CLEAN is on, as by default. Memory is the growth of the
process's resident set over what it is before the log is opened: its highest value, and what remains.
"""

import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from quickstart.tokenizer import build_tokenizer
from srt.collect.attempts import Attempts
from srt.common.files import JsonlLog
from srt.common.name_values import show_help
from srt.contract.layout import Layout, PromptFormat
from srt.contract.phrases import PHRASE_SETS
from srt.contract.records import Problem, Response, Revision, as_line, pack_ids

VOCAB = 100  # ids that are drawn
IDS_PER_KILOBYTE = 345  # about: text and packed ids together


def problems(attempts: int) -> list[Problem]:
    return [Problem(id=f"p{index}", x=f"x = {index}", answer="7") for index in range(attempts // 2)]


def layout() -> Layout:
    tokenizer = build_tokenizer()
    return Layout(tokenizer, PHRASE_SETS["qwen"], PromptFormat(prompt_suffix=""), [tokenizer.eos_token_id])


def write_log(folder: Path, attempts: int, kilobytes: float) -> int:
    """A log of so many lines, a response and its revision after one another; returns its bytes."""
    rng, made = random.Random(0), layout()
    log = JsonlLog(folder / "attempts.jsonl")
    for index, problem in enumerate(problems(attempts)):
        ids = [rng.randrange(3, VOCAB) for _ in range(int(IDS_PER_KILOBYTE * kilobytes))] + made.eot_ids[:1]
        text, packed, right = made.decode(ids), pack_ids(ids), index % 3 == 0
        common = {"problem_idx": index, "response_idx": 0}
        y_init = {
            "y_init": text,
            "y_init_ids": packed,
            "y_init_tokens": len(ids),
            "y_init_correct": False,
            "y_init_extracted": "8",
            "y_init_reason": "different answers",
            "y_init_finish_reason": "stop",
            "y_init_seed": index,
        }
        origin = {"id": problem.id, "source": "", "x": problem.x, "ground_truth": "7"}
        log.append(as_line(Response(**common, **origin, **y_init)))
        revised = {name.replace("y_init", "y_revised"): value for name, value in y_init.items()}
        revised |= {"y_revised_correct": right, "revision_idx": 0, "p_r": PHRASE_SETS["qwen"].wrong}
        log.append(as_line(Revision(**common, **revised)))
    log.close()
    return log.path.stat().st_size


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def restore(folder: Path, attempts: int) -> None:
    made, of = layout(), problems(attempts)
    before, started = resident("VmRSS"), time.perf_counter()
    restored = Attempts(folder, of, made, cleaning=True)
    seconds = time.perf_counter() - started
    done = len(restored.responses) + len(restored.revisions)
    highest, remains = resident("VmHWM") - before, resident("VmRSS") - before
    print(f"{done} attempts restored in {seconds:.1f} s ({done / seconds:.0f} attempts/s)")
    for name, grown in (("at its highest", highest), ("afterwards", remains)):
        print(f"  memory {name}: {grown / 2**20:.0f} MiB, {grown / done:.0f} bytes per attempt")


def main(arguments: list[str]) -> None:
    show_help(arguments, __doc__)
    if arguments[:1] == ["restore"]:
        restore(Path(arguments[1]), int(arguments[2]))
        return
    attempts = int(arguments[0]) if arguments else 100_000
    kilobytes = float(arguments[1]) if len(arguments) > 1 else 10.0
    with tempfile.TemporaryDirectory() as folder:
        size = write_log(Path(folder), attempts, kilobytes)
        print(f"log: {size / 2**20:.0f} MiB, {size / attempts / 1000:.1f} kB per attempt", flush=True)
        subprocess.run([sys.executable, __file__, "restore", folder, str(attempts)], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
