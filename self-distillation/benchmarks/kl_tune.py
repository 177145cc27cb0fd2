"""Launch settings of the exact KL's kernels, and tokens per chunk: mode `tune` of kl.py."""

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from kl_common import Arguments, Cases, measure
from kl_contenders import four_products, ours

from opsd.kl import KLConfig, dense
from opsd.kl.kernels import fused, single_pass
from opsd.kl.matmul import mm_fp32
from opsd.kl.sparse import MAX_DROPPED


class Tuning:
    """Launch settings of the kernels, each measured on one chunk, then tokens per chunk for the whole function."""

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
        """Measure all settings, note them, and continue with the best."""
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
        student = mm_fp32(case.student_hidden, case.student_head.T, torch.float32)
        teacher = mm_fp32(case.teacher_hidden, case.teacher_head.T, torch.float32)
        out = torch.empty_like(student, dtype=torch.bfloat16)

        def compare(**options: Any) -> fused.FusedChunk:
            return fused.compare(student, teacher, case.weights, KLConfig(), **options)

        self.note("floor: both logits read once", "", measure(lambda: (student.sum(), teacher.sum()), 0.1)[0])
        settings = [(4096, 8), (2048, 4), (1024, 2), (4096, 4), (2048, 2), (1024, 1), (8192, 16), (4096, 16)]
        self.try_all("sums over both logits, merged", fused, ("BLOCK", "WARPS"), settings, compare)
        chunk = compare()
        settings = [(4096, 8), (2048, 4), (2048, 8), (1024, 4), (8192, 16)]
        names = ("DENSE_BLOCK", "DENSE_WARPS")
        self.try_all("gradient at all entries", fused, names, settings, lambda: chunk.dense(out))
        settings = [(8192, 8, 128), (4096, 4, 128), (2048, 2, 128), (8192, 16, 64), (16384, 16, 128)]
        names = ("BLOCK", "WARPS", "REGISTERS")
        self.try_all("sums and gradient in one launch", single_pass, names, settings, lambda: compare(out=out))
        flags = chunk.flag(eps, MAX_DROPPED)
        ms, _ = measure(lambda: chunk.flag(eps, MAX_DROPPED), 0.1)
        self.note("flags", f"{int(flags.sum())} entries", ms)
        entries = flags.nonzero()[:, 0]
        settings = [(512, 4), (256, 4), (1024, 4), (1024, 8)]
        names = ("GATHER_BLOCK", "GATHER_WARPS")
        self.try_all(
            "gradient at the flagged entries", fused, names, settings, lambda: chunk.gather(entries, out.dtype)
        )

    def chunks(self) -> None:
        case, eps = self.case, self.arguments.grad_eps
        floor, _ = measure(lambda: four_products(case))
        self.note("four matrix products alone", f"T={len(case.student_hidden)}", floor)
        for size in (512, 768, 1024, 1536, 2048):
            if time.perf_counter() < self.end:
                ms, memory = measure(lambda size=size: ours(case, eps, size))
                self.note("ours, flagged entries", f"chunk {size}: {ms / floor:.3f}x {memory:.2f} GiB", ms)
        for size, buffered in ((1024, 2048), (512, 2048), (1024, 1024), (1024, 4096), (2048, 2048)):
            if time.perf_counter() < self.end:
                with mock.patch.object(dense, "BUFFER_TOKENS", buffered):
                    ms, memory = measure(lambda size=size: ours(case, 0.0, size))
                setting = f"chunk {size}, {buffered}: {ms / floor:.3f}x {memory:.2f} GiB"
                self.note("ours, all entries", setting, ms)


def tune(arguments: Arguments, cases: Cases) -> list[dict]:
    tuning = Tuning(arguments, cases)
    tuning.kernels()
    tuning.chunks()
    print("\nbest:", tuning.best)
    return tuning.rows
