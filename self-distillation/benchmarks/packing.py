"""Padded against packed forward passes in the training part of the local engine, on the same pairs.

    PYTHONPATH=self-revision-training:self-distillation python self-distillation/benchmarks/packing.py \
        model=<SRT checkpoint> samples=600,1.0 max_tokens=4096 json=packing.json

Each variant runs in a process of its own, `rounds` times in turn (padded, packed, padded, ...), so that both meet
whatever else the machine does:

- forward: teacher and student up to the KL, without gradients, as preflight and localize.sh compute it;
- update: the same with the backward passes and AdamW.

`samples`: a file of responses or MEDIAN,SIGMA of random ones, as in engine.py, whose options these are. Seconds
are the median of `repeats` after one to warm up, then the median of the rounds. tokens/s counts tokens of y;
`computed` is the number of tokens in both models' passes, padding included, over those without it. Peak memory is
torch's.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine import Options, Watch, layout_of, random_samples, read_pairs, run_config

from srt.common.name_values import read_name_values

VARIANTS = {"padded": "0", "packed": "1"}


@dataclass(frozen=True)
class PackingOptions(Options):
    samples: str = "600,1.0"
    rounds: int = 2
    max_tokens: int = 4096


def measure(options: PackingOptions, samples: Path, packing: str) -> dict[str, Any]:
    """One variant; call it in a process of its own."""
    from opsd.local.optimizer_step import OptimizerStep
    from opsd.local.student import Student
    from opsd.local.teacher import open_teacher
    from opsd.metrics import TokenMetrics
    from opsd.pairs import micro_batches
    from srt.common.models import padding_id

    pairs = read_pairs(options, samples)
    longest = max(len(pair.teacher.ids) for pair in pairs)
    config = run_config(options, "unused", packing=packing)
    student = Student(config, None, longest)
    if packing == "1" and not student.packed:
        sys.exit(f"{options.model} cannot be packed")
    layout = layout_of(options.model)
    pad_id = padding_id(options.model, layout.tokenizer, layout.eot_ids[0])
    step = OptimizerStep(config, student, open_teacher(config, student, None), pad_id, 1000, None)
    batches = micro_batches(pairs, options.tokens_per_micro_batch, student.packed)
    sequences = [[pair.student for pair in batch] for batch in batches]
    sequences += [[pair.teacher for pair in batch] for batch in batches]
    lengths = [[len(sequence.ids) for sequence in one_pass] for one_pass in sequences]
    computed = sum(sum(each) if student.packed else len(each) * max(each) for each in lengths)
    scored: list[Any] = []
    return {
        "forward": timed(options, pairs, lambda: scored.append(step.score(pairs))),
        "kl": TokenMetrics(scored[-1]).means()["kl"],
        "update": timed(options, pairs, lambda: step.run(pairs)),
        "micro_batches": len(batches),
        "computed": computed / sum(map(sum, lengths)),
    }


def timed(options: PackingOptions, pairs: list[Any], work: Callable[[], Any]) -> dict[str, Any]:
    watch = Watch()
    for _ in range(1 + options.repeats):
        watch.start()
        work()
        watch.stop()
    return watch.figures(pairs)


def over_rounds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of the times and rates of all rounds; all else is that of the last one."""
    result = dict(rows[-1])
    for part in ("forward", "update"):
        result[part] = rows[-1][part] | {
            name: statistics.median(row[part][name] for row in rows) for name in ("seconds", "tokens_per_second")
        }
    return result


def print_table(figures: dict[str, Any]) -> None:
    print(f"\n{figures['device']}, {figures['responses']}")
    print(f"{'':<8}{'part':<9}{'s':>9}{'tokens/s':>10}{'ratio':>8}{'GiB':>7}{'passes':>8}{'computed':>10}  KL")
    for part in ("forward", "update"):
        for variant in VARIANTS:
            row = figures[variant]
            measured, base = row[part], figures["padded"][part]
            ratio = measured["tokens_per_second"] / base["tokens_per_second"]
            peak = "-" if measured["peak_gib"] is None else f"{measured['peak_gib']:.1f}"
            print(
                f"{variant:<8}{part:<9}{measured['seconds']:>9.2f}{measured['tokens_per_second']:>10.0f}"
                f"{ratio:>7.2f}x{peak:>7}{row['micro_batches']:>8}{row['computed']:>9.2f}x  {row['kl']:.6f}"
            )


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["variant"]:  # one of our own processes
        variant, samples, result, options = arguments[1:]
        figures = measure(PackingOptions(**json.loads(options)), Path(samples), VARIANTS[variant])
        Path(result).write_text(json.dumps(figures))
        return
    options = read_name_values(PackingOptions, arguments, __doc__)
    rows: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        samples, result = Path(options.samples), Path(folder) / "result.json"
        if not samples.is_file():
            samples = Path(folder) / "samples.jsonl"
            random_samples(options, samples)
        lengths = sorted(len(pair.targets) for pair in read_pairs(options, samples))
        for number in range(options.rounds):
            for variant, of_variant in rows.items():
                command = [sys.executable, __file__, "variant", variant, str(samples), str(result)]
                subprocess.run([*command, json.dumps(asdict(options))], check=True)
                of_variant.append(json.loads(result.read_text()))
                print(f"round {number}, {variant}: {json.dumps(of_variant[-1])}", flush=True)
    import torch

    figures: dict[str, Any] = {variant: over_rounds(of_variant) for variant, of_variant in rows.items()}
    figures["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    spread = f"{lengths[0]} to {lengths[-1]} tokens, median {lengths[len(lengths) // 2]}"
    figures["responses"] = f"{len(lengths)} responses of {spread}"
    print_table(figures)
    if options.json:
        Path(options.json).write_text(json.dumps(figures | {"options": asdict(options)}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
