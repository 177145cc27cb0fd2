"""Time, memory and accuracy of the exact KL beside what else computes it.

    python self-distillation/benchmarks/kl.py model=CHECKPOINT out=FOLDER            # about two minutes
    python self-distillation/benchmarks/kl.py modes=tune model=CHECKPOINT out=FOLDER  # one minute

Writes kl.json, the tables as Markdown (kl.md) and a plot of times and memory (kl.png).
"""

import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
from kl_cases import Case, model_case, near_equal_case, random_case
from kl_contenders import Contender, contenders, four_products, ours
from torch import Tensor

from opsd.kl import exact as kl
from opsd.kl import gradients as kl_gradients
from opsd.kl import lm_head as kl_head
from opsd.kl import sparse as kl_columns
from opsd.kl.divergences import KLConfig
from opsd.kl.matmul import product

GIB = 2**30


@dataclass
class Arguments:
    """key=value; lists are separated by commas."""

    # Also: sweep, over grad_eps; tune, whose best settings the modes after it use.
    modes: list[str] = field(default_factory=lambda: ["accuracy", "breakdown", "times"])
    model: str = ""  # checkpoint whose hidden states are used; none: random ones only
    # The most wanted first; the first of each is what all but `times` measure.
    tokens: list[int] = field(default_factory=lambda: [8192, 2048, 16384, 32768])
    widths: list[int] = field(default_factory=lambda: [2560, 1536, 4096])
    vocab: int = 151936  # of random heads
    grad_eps: float = 2e-4
    chunk_tokens: int = 0  # rows per chunk of ours; 0: by free memory
    dense_rows: int = 0  # kl_gradients.DENSE_ROWS; 0: as it is
    liger_compiled: int = 1  # its own default
    budget: float = 60.0  # seconds for the times; what does not fit is left out
    accuracy_tokens: int = 512
    out: str = "."


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
            sys.exit(f"{key}: unknown; known are {', '.join(asdict(arguments))}")
        old = getattr(arguments, key)
        new = [type(old[0])(x) for x in value.split(",")] if isinstance(old, list) else type(old)(value)
        setattr(arguments, key, new)
    return arguments


# Measuring


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(run: Callable[[], object], seconds: float = 0.4) -> tuple[float, float]:
    """Median time of a call in ms, after a warm-up, and the memory it adds at its peak in GiB."""
    run()
    synchronize()
    memory = 0.0
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        memory = (torch.cuda.max_memory_allocated() - before) / GIB
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 20):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)[len(times) // 2], memory


def enough_memory(contender: Contender, case: Case) -> bool:
    if not torch.cuda.is_available():
        return True
    return contender.memory(case) < 0.9 * kl._free_memory(case.student_hidden.device)


class Cases:
    """The cases of every width, made when they are asked for; the model writes only once."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        self.model = None
        if arguments.model:
            start = time.perf_counter()
            self.model = model_case(arguments.model, max(arguments.tokens))
            seconds = time.perf_counter() - start
            print(f"{arguments.model}: {max(arguments.tokens)} tokens written in {seconds:.0f} s", flush=True)

    def random(self, tokens: int, width: int) -> Case:
        return random_case(tokens, width, self.arguments.vocab, self.device, self.dtype)

    def near_equal(self, tokens: int, width: int) -> Case:
        return near_equal_case(tokens, width, self.arguments.vocab, self.device, self.dtype)

    def flat(self, tokens: int, width: int) -> Case:
        return random_case(tokens, width, self.arguments.vocab, self.device, self.dtype, scale=0.5)

    def of_width(self, width: int) -> dict[str, Case]:
        """Cases of the most tokens, by name."""
        cases = {"random": self.random(max(self.arguments.tokens), width)}
        if self.model is not None and width >= self.model.student_hidden.shape[1]:
            cases = {"model": self.model.widened(width)} | cases
        return cases


# What is measured


def times(arguments: Arguments, cases: Cases) -> list[dict]:
    """Every contender at every size, the most wanted sizes first."""
    end = time.perf_counter() + arguments.budget
    rows, skipped = [], 0
    # On random hidden states only ours differs from what it is on a model's.
    wanted = {"random": ("four matrix products alone", "ours, all columns", "ours, flagged columns")}
    for width in arguments.widths:
        for name, most in cases.of_width(width).items():
            for tokens in arguments.tokens:
                case = most.first(tokens)
                for contender in contenders(arguments.grad_eps, bool(arguments.liger_compiled)):
                    if cases.model is not None and name in wanted and contender.name not in wanted[name]:
                        continue
                    if time.perf_counter() > end or not enough_memory(contender, case):
                        skipped += 1
                        continue
                    ms, memory = measure(lambda contender=contender, case=case: contender.run(case))
                    row = {"case": name, "H": width, "T": tokens, "contender": contender.name}
                    row |= {"ms": ms, "GiB": memory}
                    if contender.name.startswith("ours"):
                        row["kept_columns"] = 1 - (ours.dropped or 0.0)
                    rows.append(row)
                    at = f"{name:7} H={width} T={tokens:6}"
                    print(f"{at} {contender.name:36} {ms:9.2f} ms {memory:6.2f} GiB", flush=True)
    print(f"{skipped} measurements left out: too little memory or time")
    return rows


def relative(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


def accuracy(arguments: Arguments, cases: Cases) -> list[dict]:
    """Relative errors of loss and both gradients against float64, from the very numbers of the case."""
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
        wanted = float64_reference(case)
        for contender in contenders(arguments.grad_eps, liger_compiled=False):
            if not contender.accuracy or not enough_memory(contender, case):
                continue
            got = contender.run(case)
            errors = [relative(x, y) for x, y in zip(got, wanted, strict=True)]
            row = {"case": name, "contender": contender.name}
            row |= dict(zip(("value", "dX", "dW"), errors, strict=True))
            if contender.name.startswith("ours"):
                row["kept_columns"] = 1 - (ours.dropped or 0.0)
            rows.append(row)
            print(f"{name:10} {contender.name:36} " + " ".join(f"{x:9.2e}" for x in errors), flush=True)
    return rows


def float64_reference(case: Case, rows: int = 128) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, dX, dW by the textbook's formulas in float64, some rows at a time."""
    student_head, teacher_head = case.student_head.detach().double(), case.teacher_head.double()
    loss, hidden_gradients = 0.0, []
    head_gradient = torch.zeros_like(student_head)
    for start in range(0, len(case.student_hidden), rows):
        hidden = case.student_hidden.detach()[start : start + rows].double()
        log_p = (hidden @ student_head.T).log_softmax(-1)
        log_q = (case.teacher_hidden[start : start + rows].double() @ teacher_head.T).log_softmax(-1)
        p, weights = log_p.exp(), case.weights[start : start + rows].double()
        token_kl = (p * (log_p - log_q)).sum(-1)
        loss = loss + (weights * token_kl).sum()
        gradient = weights[:, None] * p * (log_p - log_q - token_kl[:, None])
        hidden_gradients.append(gradient @ student_head)
        head_gradient += gradient.T @ hidden
    return loss, torch.cat(hidden_gradients), head_gradient


def breakdown(arguments: Arguments, cases: Cases) -> list[dict]:
    """Where the time of one call goes, by CUDA events around the parts; what waits for the host counts too."""
    rows = []
    for name, most in cases.of_width(arguments.widths[0]).items():
        case = most.first(arguments.tokens[0])
        for label, eps in (("flagged columns", arguments.grad_eps), ("all columns", 0.0)):
            parts = [
                (kl_head.Head, "logits", "forward products, fp32 out"),
                (kl_triton(), "compare", "sums over both logits" if eps else "sums and gradient"),
                (kl_triton().FusedChunk, "flag", "flags"),
                (kl_triton().FusedChunk, "at", "gradient at the flagged columns"),
                (kl_triton().FusedChunk, "dense", "gradient at all columns"),
                (kl_gradients, "product", "products back (flagged columns)"),
                (kl_gradients, "add_product", "products back (all columns)"),
                (kl_columns.ColumnSums, "add", "head's gradient into its table"),
                (kl_columns.ColumnSums, "scaled", "head's gradient as [V, H]"),
                (kl_gradients, "scaled", "hidden states' gradient, scaled"),
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
            sums["all else"] = total - sum(sums.values())
            print(f"\n{name}, T={len(case.student_hidden)}, {label}: {total:.2f} ms")
            for part, ms in sums.items():
                rows.append({"case": name, "columns": label, "part": part, "ms": ms})
                print(f"  {part:40} {ms:8.2f} ms {100 * ms / total:6.1f}%")
    return rows


def sweep(arguments: Arguments, cases: Cases) -> list[dict]:
    """What `grad_eps` buys and costs: the gradients' errors are against those of all columns."""
    rows = []
    for name, most in cases.of_width(arguments.widths[0]).items():
        case = most.first(arguments.tokens[0])
        floor, _ = measure(lambda case=case: four_products(case))
        whole = [x.double() for x in ours(case, 0.0)]
        for eps in (0.0, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3):
            dx, dw = (relative(*pair) for pair in zip(ours(case, eps)[1:], whole[1:], strict=True))
            kept = 1 - (ours.dropped or 0.0)
            ms, memory = measure(lambda case=case, eps=eps: ours(case, eps))
            row = {"case": name, "grad_eps": eps, "kept_columns": kept, "dX": dx, "dW": dw}
            rows.append(row | {"ms": ms, "x products": ms / floor, "GiB": memory})
            print(" ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


@contextlib.contextmanager
def stopwatch(parts: list[tuple[object, str, str]]) -> Iterator[dict]:
    """CUDA events around every call of some functions, by label."""
    spent = defaultdict(list)

    def timed(function: Callable, label: str) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            result = function(*args, **kwargs)
            events[1].record()
            spent[label].append(events)
            return result

        return call

    with contextlib.ExitStack() as stack:
        for owner, name, label in parts:
            stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name), label)))
        yield spent


class Tuning:
    """Launch settings of the kernels, each on a chunk of its own, then rows per chunk on the whole function."""

    def __init__(self, arguments: Arguments, cases: Cases) -> None:
        self.arguments, self.rows, self.best = arguments, [], {}
        self.end = time.perf_counter() + arguments.budget
        self.case = next(iter(cases.of_width(arguments.widths[0]).values())).first(arguments.tokens[0])

    def note(self, what: str, setting: str, ms: float) -> None:
        self.rows.append({"what": what, "setting": setting, "ms": ms})
        print(f"{what:34} {setting:34} {ms:8.3f} ms", flush=True)

    def try_all(
        self, what: str, module: ModuleType, names: tuple[str, ...], settings: list, run: Callable
    ) -> None:
        """Measure all settings, note them, and go on with the best."""
        results = []
        for setting in settings:
            if not results or time.perf_counter() < self.end:
                with mock.patch.multiple(module, **dict(zip(names, setting, strict=True))):
                    results.append((measure(run, seconds=0.1)[0], setting))
                self.note(what, f"{', '.join(names)} = {setting}", results[-1][0])
        for name, value in zip(names, min(results)[1], strict=True):
            setattr(module, name, value)
            self.best[f"{module.__name__}.{name}"] = value

    def kernels(self) -> None:
        case, eps = self.case.first(1024), self.arguments.grad_eps
        student = product(case.student_hidden, case.student_head.T, torch.float32)
        teacher = product(case.teacher_hidden, case.teacher_head.T, torch.float32)
        out = torch.empty_like(student, dtype=torch.bfloat16)

        def compare(**options: object) -> object:
            return kl_triton().compare(student, teacher, case.weights, KLConfig(), **options)

        self.note("floor: both logits read once", "", measure(lambda: (student.sum(), teacher.sum()), 0.1)[0])
        settings = [(4096, 8), (2048, 4), (1024, 2), (4096, 4), (2048, 2), (1024, 1), (8192, 16), (4096, 16)]
        self.try_all("sums over both logits, merged", kl_triton(), ("BLOCK", "WARPS"), settings, compare)
        chunk = compare()
        settings = [(4096, 8), (2048, 4), (2048, 8), (1024, 4), (8192, 16)]
        names = ("DENSE_BLOCK", "DENSE_WARPS")
        self.try_all("gradient at all columns", kl_triton(), names, settings, lambda: chunk.dense(out))
        settings = [(8192, 8, 128), (4096, 4, 128), (2048, 2, 128), (8192, 16, 64), (16384, 16, 128)]
        names = ("BLOCK", "WARPS", "REGISTERS")
        once = kl_triton().kl_once_triton
        self.try_all("sums and gradient in one launch", once, names, settings, lambda: compare(out=out))
        flags = chunk.flag(eps, kl_columns.MAX_DROPPED)
        ms, _ = measure(lambda: chunk.flag(eps, kl_columns.MAX_DROPPED), 0.1)
        self.note("flags", f"{int(flags.sum())} columns", ms)
        columns = flags.nonzero()[:, 0]
        settings = [(512, 4), (256, 4), (1024, 4), (1024, 8)]
        names = ("AT_BLOCK", "AT_WARPS")
        self.try_all(
            "gradient at the flagged columns", kl_triton(), names, settings, lambda: chunk.at(columns, out.dtype)
        )

    def chunks(self) -> None:
        case, eps = self.case, self.arguments.grad_eps
        floor, _ = measure(lambda: four_products(case))
        self.note("four matrix products alone", f"T={len(case.student_hidden)}", floor)
        for size in (512, 768, 1024, 1536, 2048):
            if time.perf_counter() < self.end:
                ms, memory = measure(lambda size=size: ours(case, eps, size))
                self.note("ours, flagged columns", f"chunk {size}: {ms / floor:.3f}x {memory:.2f} GiB", ms)
        for size, collected in ((1024, 2048), (512, 2048), (1024, 1024), (1024, 4096), (2048, 2048)):
            if time.perf_counter() < self.end:
                with mock.patch.object(kl_gradients, "DENSE_ROWS", collected):
                    ms, memory = measure(lambda size=size: ours(case, 0.0, size))
                setting = f"chunk {size}, {collected}: {ms / floor:.3f}x {memory:.2f} GiB"
                self.note("ours, all columns", setting, ms)


def kl_triton() -> ModuleType:
    from opsd.kl.kernels import fused as kl_triton  # only where there is a GPU

    return kl_triton


def tune(arguments: Arguments, cases: Cases) -> list[dict]:
    tuning = Tuning(arguments, cases)
    tuning.kernels()
    tuning.chunks()
    print("\nbest:", tuning.best)
    return tuning.rows


# Output


def table(rows: list[dict], columns: list[str]) -> str:
    """A Markdown table of some entries of the rows."""

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
    if arguments.dense_rows:
        kl_gradients.DENSE_ROWS = arguments.dense_rows
    if arguments.chunk_tokens:
        kl.FUSED_ROWS = arguments.chunk_tokens
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, torch {torch.__version__}, {asdict(arguments)}", flush=True)
    cases = Cases(arguments)
    results, text = {"device": device, "torch": torch.__version__, "arguments": asdict(arguments)}, []
    columns = {
        "times": ["case", "H", "T", "contender", "ms", "x products", "GiB", "kept_columns"],
        "accuracy": ["case", "contender", "value", "dX", "dW", "kept_columns"],
        "breakdown": ["case", "columns", "part", "ms"],
        "sweep": ["case", "grad_eps", "kept_columns", "dX", "dW", "ms", "x products", "GiB"],
        "tune": ["what", "setting", "ms"],
    }
    modes = {"times": times, "accuracy": accuracy, "breakdown": breakdown, "sweep": sweep, "tune": tune}
    for mode in arguments.modes:
        print(f"\n== {mode}", flush=True)
        rows = modes[mode](arguments, cases)
        if mode == "times":
            rows = with_ratios(rows)
            plot(rows, out / "kl.png")
        results[mode] = rows
        text.append(f"### {mode} ({device})\n\n{table(rows, columns[mode])}\n")
        # After every mode: what was measured is kept when a later one is cut off.
        (out / "kl.json").write_text(json.dumps(results, indent=1))
        (out / "kl.md").write_text("\n".join(text))
    print("\n" + "\n".join(text))


if __name__ == "__main__":
    main()
