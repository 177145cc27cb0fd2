"""Time, memory and accuracy of the exact KL, compared with other implementations.

    python self-distillation/benchmarks/kl.py model=CHECKPOINT out=FOLDER            # about two minutes
    python self-distillation/benchmarks/kl.py modes=tune model=CHECKPOINT out=FOLDER  # one minute

Writes kl.json, the tables as Markdown (kl.md) and a plot of times and memory (kl.png).
"""

import json
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

import torch
from kl_cases import Case
from kl_common import Arguments, Cases, measure, stopwatch
from kl_contenders import Contender, contenders, four_products, ours
from torch import Tensor

from opsd.kl import chunks, dense, gradients, sparse
from opsd.kl.lm_head import LMHead
from opsd.kl.sparse_rows import SparseRowAccumulator


def parse(argv: list[str]) -> Arguments:
    if any(argument in ("-h", "--help") for argument in argv):
        print(__doc__)
        for entry in fields(Arguments):
            print(f"  {entry.name}={getattr(Arguments(), entry.name)}")
        sys.exit(0)
    arguments = Arguments()
    for argument in argv:
        key, _, value = argument.partition("=")
        if key not in asdict(arguments):
            sys.exit(f"{key}: unknown argument, expected one of {', '.join(asdict(arguments))}")
        old = getattr(arguments, key)
        new = [type(old[0])(x) for x in value.split(",")] if isinstance(old, list) else type(old)(value)
        setattr(arguments, key, new)
    return arguments


def enough_memory(contender: Contender, case: Case) -> bool:
    if not torch.cuda.is_available():
        return True
    return contender.memory(case) < 0.9 * chunks.free_memory(case.student_hidden.device)


# What is measured


def times(arguments: Arguments, cases: Cases) -> list[dict]:
    """Every contender at every size, the most important sizes first."""
    end = time.perf_counter() + arguments.budget
    rows, skipped = [], 0
    # On random hidden states only ours behaves differently than on a model's.
    measured = {"random": ("four matrix products alone", "ours, all entries", "ours, flagged entries")}
    for width in arguments.widths:
        for name, most in cases.of_width(width).items():
            for tokens in arguments.tokens:
                case = most.first(tokens)
                for contender in contenders(arguments.grad_eps, bool(arguments.liger_compiled)):
                    if cases.model is not None and name in measured and contender.name not in measured[name]:
                        continue
                    if time.perf_counter() > end or not enough_memory(contender, case):
                        skipped += 1
                        continue
                    ms, memory = measure(lambda contender=contender, case=case: contender.run(case))
                    row = {"case": name, "H": width, "T": tokens, "contender": contender.name}
                    row |= {"ms": ms, "GiB": memory}
                    if contender.name.startswith("ours"):
                        row["kept_entries"] = 1 - (ours.dropped or 0.0)
                    rows.append(row)
                    at = f"{name:7} H={width} T={tokens:6}"
                    print(f"{at} {contender.name:36} {ms:9.2f} ms {memory:6.2f} GiB", flush=True)
    print(f"{skipped} measurements skipped: not enough memory or time")
    return rows


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())


def accuracy(arguments: Arguments, cases: Cases) -> list[dict]:
    """Relative errors of loss and both gradients against float64, computed from the same inputs."""
    tokens, width = arguments.accuracy_tokens, arguments.widths[0]
    of_width = cases.of_width(width)
    some = {
        "far apart": cases.random(tokens, width),
        "near-equal": cases.near_equal(tokens, width),
        "flat": cases.flat(tokens, width),
    }
    if "model" in of_width:
        some["model"] = of_width["model"].first(tokens)
    del of_width
    rows = []
    for name, case in some.items():
        expected = float64_reference(case)
        for contender in contenders(arguments.grad_eps, liger_compiled=False):
            if not contender.accuracy or not enough_memory(contender, case):
                continue
            actual = contender.run(case)
            errors = [relative(x, y) for x, y in zip(actual, expected, strict=True)]
            row = {"case": name, "contender": contender.name}
            row |= dict(zip(("value", "dX", "dW"), errors, strict=True))
            if contender.name.startswith("ours"):
                row["kept_entries"] = 1 - (ours.dropped or 0.0)
            rows.append(row)
            print(f"{name:10} {contender.name:36} " + " ".join(f"{x:9.2e}" for x in errors), flush=True)
    return rows


def float64_reference(case: Case, chunk: int = 128) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, dX, dW by the textbook's formulas in float64, some tokens at a time."""
    student_head, teacher_head = case.student_head.detach().double(), case.teacher_head.double()
    loss, hidden_gradients = 0.0, []
    head_gradient = torch.zeros_like(student_head)
    for start in range(0, len(case.student_hidden), chunk):
        hidden = case.student_hidden.detach()[start : start + chunk].double()
        log_p = (hidden @ student_head.T).log_softmax(-1)
        log_q = (case.teacher_hidden[start : start + chunk].double() @ teacher_head.T).log_softmax(-1)
        p, weights = log_p.exp(), case.weights[start : start + chunk].double()
        token_kl = (p * (log_p - log_q)).sum(-1)
        loss = loss + (weights * token_kl).sum()
        gradient = weights[:, None] * p * (log_p - log_q - token_kl[:, None])
        hidden_gradients.append(gradient @ student_head)
        head_gradient += gradient.T @ hidden
    return loss, torch.cat(hidden_gradients), head_gradient


def breakdown(arguments: Arguments, cases: Cases) -> list[dict]:
    """Where the time of one call goes, by CUDA events around its parts, including waits for the host."""
    from opsd.kl.kernels import fused  # needs Triton

    rows = []
    for name, most in cases.of_width(arguments.widths[0]).items():
        case = most.first(arguments.tokens[0])
        for label, eps in (("flagged entries", arguments.grad_eps), ("all entries", 0.0)):
            parts = [
                (LMHead, "logits", "forward products, fp32 out"),
                (fused, "compare", "sums over both logits" if eps else "sums and gradient"),
                (fused.FusedChunk, "flag", "flags"),
                (fused.FusedChunk, "gather", "gradient at the flagged entries"),
                (fused.FusedChunk, "dense", "gradient at all entries"),
                (sparse, "mm_fp32", "products back (flagged entries)"),
                (dense, "mm_fp32", "products back (all entries)"),
                (dense, "addmm_fp32", "products back (all entries)"),
                (SparseRowAccumulator, "add", "lm_head's gradient into its table"),
                (SparseRowAccumulator, "scaled", "lm_head's gradient as [V, H]"),
                (gradients, "scaled", "hidden states' gradient, scaled"),
            ]
            ours(case, eps)
            with stopwatch(parts) as spent:
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                ours(case, eps)
                stop.record()
            torch.cuda.synchronize()
            total = start.elapsed_time(stop)
            sums = {part: sum(a.elapsed_time(b) for a, b in pairs) for part, pairs in spent.items()}
            sums["everything else"] = total - sum(sums.values())
            print(f"\n{name}, T={len(case.student_hidden)}, {label}: {total:.2f} ms")
            for part, ms in sums.items():
                rows.append({"case": name, "entries": label, "part": part, "ms": ms})
                print(f"  {part:40} {ms:8.2f} ms {100 * ms / total:6.1f}%")
    return rows


def sweep(arguments: Arguments, cases: Cases) -> list[dict]:
    """Benefit and cost of `grad_eps`; errors are relative to the gradients over all vocab entries."""
    rows = []
    for name, most in cases.of_width(arguments.widths[0]).items():
        case = most.first(arguments.tokens[0])
        floor, _ = measure(lambda case=case: four_products(case))
        whole = [x.double() for x in ours(case, 0.0)]
        for eps in (0.0, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3):
            dx, dw = (relative(*pair) for pair in zip(ours(case, eps)[1:], whole[1:], strict=True))
            kept = 1 - (ours.dropped or 0.0)
            ms, memory = measure(lambda case=case, eps=eps: ours(case, eps))
            row = {"case": name, "grad_eps": eps, "kept_entries": kept, "dX": dx, "dW": dw}
            rows.append(row | {"ms": ms, "x products": ms / floor, "GiB": memory})
            print(" ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


# Output


def table(rows: list[dict], columns: list[str]) -> str:
    """A Markdown table of some columns of the rows."""

    def text(value: object) -> str:
        if isinstance(value, float):
            return f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}"
        return "" if value is None else str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(text(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def with_ratios(rows: list[dict]) -> list[dict]:
    """Each time also as a multiple of the four products' at its size."""
    floor = {(r["case"], r["H"], r["T"]): r["ms"] for r in rows if r["contender"].startswith("four")}
    return [row | {"x products": row["ms"] / floor[row["case"], row["H"], row["T"]]} for row in rows]


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row["H"] == rows[0]["H"] and row["case"] == rows[0]["case"]]
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for axis, entry, unit in zip(axes, ("ms", "GiB"), ("ms", "GiB beyond the inputs"), strict=True):
        for number, contender in enumerate(dict.fromkeys(row["contender"] for row in shown)):
            points = sorted((row["T"], row[entry]) for row in shown if row["contender"] == contender)
            if entry == "ms" or not contender.startswith("four"):
                axis.plot(*zip(*points, strict=True), f"C{number}o-", markersize=3, label=contender)
        axis.set(xscale="log", yscale="log", xlabel="T (tokens)", ylabel=unit)
        ticks = sorted({row["T"] for row in shown})
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.suptitle(f"loss and both gradients, H = {rows[0]['H']}, {rows[0]['case']} hidden states")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    arguments = parse(sys.argv[1:])
    if arguments.buffer_tokens:
        dense.BUFFER_TOKENS = arguments.buffer_tokens
    if arguments.chunk_tokens:
        chunks.FUSED_CHUNK_TOKENS = arguments.chunk_tokens
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, torch {torch.__version__}, {asdict(arguments)}", flush=True)
    cases = Cases(arguments)
    results, text = {"device": device, "torch": torch.__version__, "arguments": asdict(arguments)}, []
    columns = {
        "times": ["case", "H", "T", "contender", "ms", "x products", "GiB", "kept_entries"],
        "accuracy": ["case", "contender", "value", "dX", "dW", "kept_entries"],
        "breakdown": ["case", "entries", "part", "ms"],
        "sweep": ["case", "grad_eps", "kept_entries", "dX", "dW", "ms", "x products", "GiB"],
        "tune": ["what", "setting", "ms"],
    }
    modes = {"times": times, "accuracy": accuracy, "breakdown": breakdown, "sweep": sweep}
    if "tune" in arguments.modes:
        from kl_tune import tune  # needs Triton

        modes["tune"] = tune
    for mode in arguments.modes:
        print(f"\n== {mode}", flush=True)
        rows = modes[mode](arguments, cases)
        if mode == "times":
            rows = with_ratios(rows)
            plot(rows, out / "kl.png")
        results[mode] = rows
        text.append(f"### {mode} ({device})\n\n{table(rows, columns[mode])}\n")
        # After every mode, so that results survive if a later one is interrupted.
        (out / "kl.json").write_text(json.dumps(results, indent=1))
        (out / "kl.md").write_text("\n".join(text))
    print("\n" + "\n".join(text))


if __name__ == "__main__":
    main()
