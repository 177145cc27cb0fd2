"""What the modes of the KL's benchmark share: arguments, cases, and how time and memory are measured."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from unittest import mock

import torch
from kl_cases import Case, model_case, near_equal_case, random_case

GIB = 2**30


@dataclass
class Arguments:
    """key=value; lists are separated by commas."""

    # Also: sweep, over grad_eps; tune, whose best settings are used by the modes after it.
    modes: list[str] = field(default_factory=lambda: ["accuracy", "breakdown", "times"])
    model: str = ""  # checkpoint whose hidden states are used; empty: random ones only
    # The most important first; all modes but `times` measure the first of each.
    tokens: list[int] = field(default_factory=lambda: [8192, 2048, 16384, 32768])
    widths: list[int] = field(default_factory=lambda: [2560, 1536, 4096])
    vocab: int = 151936  # of random lm_heads
    grad_eps: float = 2e-4
    chunk_tokens: int = 0  # at most, in ours; 0: chunks.FUSED_CHUNK_TOKENS
    buffer_tokens: int = 0  # in place of dense.BUFFER_TOKENS; 0: unchanged
    liger_compiled: int = 1  # its own default
    budget: float = 60.0  # seconds for the times; what exceeds it is skipped
    accuracy_tokens: int = 512
    out: str = "."


class Cases:
    """The cases of every width, built on demand; the model generates only once."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        self.model = None
        if arguments.model:
            start = time.perf_counter()
            self.model = model_case(arguments.model, max(arguments.tokens))
            seconds = time.perf_counter() - start
            print(f"{arguments.model}: {max(arguments.tokens)} tokens generated in {seconds:.0f} s", flush=True)

    def random(self, tokens: int, width: int) -> Case:
        return random_case(tokens, width, self.arguments.vocab, self.device, self.dtype)

    def near_equal(self, tokens: int, width: int) -> Case:
        return near_equal_case(tokens, width, self.arguments.vocab, self.device, self.dtype)

    def flat(self, tokens: int, width: int) -> Case:
        return random_case(tokens, width, self.arguments.vocab, self.device, self.dtype, scale=0.5)

    def of_width(self, width: int) -> dict[str, Case]:
        """The cases with the most tokens, by name."""
        cases = {"random": self.random(max(self.arguments.tokens), width)}
        if self.model is not None and width >= self.model.student_hidden.shape[1]:
            cases = {"model": self.model.widened(width)} | cases
        return cases


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


@contextlib.contextmanager
def stopwatch(parts: list[tuple[object, str, str]]) -> Iterator[dict]:
    """CUDA event pairs around every call of some functions, by label."""
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
