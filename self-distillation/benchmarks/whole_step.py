"""The whole step of Phase 2, side by side in one run: our engines and their knobs, stock NeMo-RL, TRL with vLLM.

    NEMO_RL_DIR=... PYTHONPATH=self-revision-training:self-distillation \
        python self-distillation/benchmarks/whole_step.py model=path/to/model json=step.json table=step.md

`arms`, separated by semicolons, each in processes of its own, in this order; a name may be followed by knobs:

- matmul: the card's rate in a bf16 matrix product, which the training parts are held against;
- offline: tokens/s of vLLM offline on the same requests, which the rollouts are held against;
- local, nemo-rl: the training loop with that engine; `nemo-rl packing=1` with a knob of distill.sh;
- stock: NeMo-RL's own distillation, top 64 (step_stock.py); knobs are paths of its recipe;
- trl: TRL's DistillationTrainer with vLLM (step_trl.py); knobs are fields of its config.

Same prompts in all arms, in the same order. The length of a response is a function of its prompt (`lengths`),
which every arm's sampler is asked for, with no end of turn before it; what an arm trained on is counted, not
assumed. Weights may be random. The teachers of stock and TRL read the student's sequences, ours
chat + y + cue + y.

An arm is measured from the end of one update to the end of the next, over `steps` steps after `warmup` steps.
With OVER_ISSUE the first steps train on shorter responses and the last on longer ones; the sums over all steps
are those of the other arms. `local`, `offline` and `matmul` take one GPU, the others `arm_gpus`, and arms run side
by side where at_once=1 and there are GPUs for them. Ratios are of tokens/s per GPU. Peak memory: of the fullest
GPU as nvidia-smi sees it, vLLM's cache included, and torch's while it trains. An arm that fails or exceeds `limit`
seconds says so and ends no other.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_watch import GpuWatch
from step_common import Options
from step_table import as_table, with_rates

from srt.common.name_values import read_name_values

ONE_GPU = ("local", "offline", "matmul")


def read_arm(arm: str) -> tuple[str, dict[str, str]]:
    """("nemo-rl", {"packing": "1"}) of "nemo-rl packing=1"."""
    kind, *knobs = arm.split()
    return kind, dict(knob.split("=", 1) for knob in knobs)


def measure(arm: str, options: Options) -> dict[str, Any] | None:
    """An arm's figures, in its own process; None where another process of the arm reports them."""
    kind, knobs = read_arm(arm)
    if kind in ("matmul", "offline"):
        import step_offline

        return step_offline.matmul(options) if kind == "matmul" else step_offline.rollouts(options)
    if kind == "stock":
        import step_stock

        return step_stock.measure(options, max(1, options.arm_gpus), knobs)
    if kind == "trl":
        import step_trl

        return step_trl.measure(options, max(1, options.arm_gpus), knobs)
    import step_ours

    return step_ours.measure(options, kind, knobs)


class Runner:
    """Starts arms on GPUs that no other arm has."""

    def __init__(self, options: Options, folder: Path):
        self.options, self.folder = options, folder
        self.free = set(range(options.gpus))
        self.queue: list[str] = []
        self.changed = threading.Condition()
        self.sessions: set[int] = set()

    def run(self, arm: str) -> dict[str, Any]:
        """What the arm reported, or why it did not; takes GPUs, and waits for them."""
        kind, _ = read_arm(arm)
        needed = min(1 if kind in ONE_GPU else self.options.arm_gpus, self.options.gpus)
        with self.changed:
            self.queue.append(arm)
            self.changed.wait_for(lambda: self.queue[0] == arm and len(self.free) >= needed)
            self.queue.remove(arm)
            gpus = sorted(self.free)[:needed]
            self.free -= set(gpus)
            self.changed.notify_all()
        try:
            return {"arm": arm, "gpus": max(1, needed)} | self._in_processes(arm, gpus)
        finally:
            with self.changed:
                self.free |= set(gpus)
                self.changed.notify_all()

    def _in_processes(self, arm: str, gpus: list[int]) -> dict[str, Any]:
        kind, _ = read_arm(arm)
        result = self.folder / f"{arm.replace(' ', '_')}.json"
        log = self.folder / f"{arm.replace(' ', '_')}.log"
        command = [sys.executable]
        if kind == "trl" and len(gpus) > 1:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={len(gpus)}"]
        command += [__file__, "arm", arm, str(result), json.dumps(asdict(self.options))]
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(gpu) for gpu in range(self.options.gpus)]
        given = [names[gpu] for gpu in gpus]
        environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ",".join(given)} if given else {})
        watch, started = GpuWatch(given), time.monotonic()
        print(f"{arm}: begun{f' on GPU {gpus}' if gpus else ''}; its output: {log}", flush=True)
        watch.start()
        with log.open("w") as output:
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            self.sessions.add(process.pid)
            code = wait(process, self.options.limit)
            self.sessions.discard(process.pid)
        watch.stop()
        seconds = time.monotonic() - started
        print(f"{arm}: {'done' if code == 0 else f'FAILED ({code})'}, {seconds:.0f} s in all", flush=True)
        if code != 0 or not result.is_file():
            end = log.read_text(errors="replace").strip().splitlines()[-15:]
            print("\n".join(f"  | {line[:300]}" for line in end), flush=True)
            return {"failed": f"exit code {code} after {seconds:.0f} s: {end[-1][:300] if end else 'no output'}"}
        return json.loads(result.read_text()) | {"seconds_in_all": seconds, "peak_gib": watch.peak_gib}


def wait(process: subprocess.Popen, limit: float) -> int | str:
    """Its exit code. Its session is ended after `limit` seconds, and whatever of it is left in any case."""
    code: int | str
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        code = f"stopped after {limit:.0f} s"
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(15.0)
    return code


def visible_gpus() -> int:
    """Without opening them in this process."""
    code = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()[-1])


def describe_machine(gpus: int) -> str:
    code = "import torch, platform; print(torch.cuda.get_device_name(), 'torch', torch.__version__)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) if gpus else None
    return f"{gpus}x {asked.stdout.strip()}" if asked and asked.returncode == 0 else "CPU"


def commit_of(options: Options) -> str:
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    asked = subprocess.run(git, capture_output=True, text=True)
    return options.commit or asked.stdout.strip() or "unknown"


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["arm"]:  # one of our own processes
        arm, result, options = arguments[1:]
        if (figures := measure(arm, Options(**json.loads(options)))) is not None:
            Path(result).write_text(json.dumps(figures))
        sys.stdout.flush()
        os._exit(0)  # what Ray, vLLM and torch would still end can only fail or hang
    options = read_name_values(Options, arguments, __doc__)
    gpus = options.gpus or visible_gpus()
    options = replace(options, gpus=gpus, arm_gpus=min(options.arm_gpus or gpus, gpus))
    arms = [arm.strip() for arm in options.arms.split(";") if arm.strip()]
    output = Path(options.json).parent if options.json else Path(tempfile.mkdtemp())
    folder = output / "arms"
    folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit_of(options),
        "hardware": describe_machine(options.gpus),
        "command": "whole_step.py " + " ".join(f"'{a}'" if " " in a or ";" in a else a for a in arguments),
        "options": asdict(options),
        "arms": [],
    }
    runner, lock = Runner(options, folder), threading.Lock()

    def stop(number: int, frame: object) -> None:
        """Ends the arms, too: they are sessions of their own."""
        for session in runner.sessions.copy():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session, signal.SIGKILL)
        os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    def run(arm: str) -> None:
        figures = runner.run(arm)
        with lock:  # what was measured outlives a run that is stopped
            report["arms"].append(with_rates(figures, options))
            report["arms"].sort(key=lambda row: arms.index(row["arm"]))
            text = as_table(report)
            if options.json:
                Path(options.json).write_text(json.dumps(report, indent=1))
            if options.table:
                Path(options.table).write_text(text)

    with ThreadPoolExecutor(max(1, options.gpus) if options.at_once else 1) as pool:
        for done in [pool.submit(run, arm) for arm in arms]:
            done.result()
    print("\n" + as_table(report))


if __name__ == "__main__":
    main(sys.argv[1:])
