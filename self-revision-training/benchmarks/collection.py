"""Collection speed, side by side on the same problems, model, seeds and engine.

    PYTHONPATH=self-revision-training python self-revision-training/benchmarks/collection.py \
        model=Qwen/Qwen2.5-Coder-1.5B-Instruct dataset=problems.jsonl problems=512 windows=64,1024 tail=600,1.0

- continuous: srt.collect.collector.Collector with `windows` problems in flight per engine;
- barrier: sample that many problems, wait for all, grade all, sample the revisions, wait, grade, next batch;
- one engine (loops=...,one; with several engines): continuous on the first engine only, with its share of the
  problems and the window of one engine;
- offline: the same requests as in the last continuous run (prompts, seeds and resulting lengths), given to vLLM at
  once, without grading or writing: the upper bound for this engine.

tail=MEDIAN,SIGMA replaces the model's own lengths, which are short on easy problems. Every request then generates
exactly L tokens, whatever the model writes: L is log-normal with that median and sigma (of log L), drawn from the
request's seed and capped at max_tokens. What is graded ends at the model's own first end of turn, so verdicts are
those of its own responses; a response that L cuts off is wrong, as always. Lengths depend on the seed only, and
are the same in all loops.

limit_seconds bounds each measurement, and rates are then those up to that point: the continuous run drops what is
in flight (its tokens are not counted), the barrier loop stops after the current batch. Prefix caches are emptied
before each measurement. Start and end of a run count, so use several times as many problems as the window.
tokens/s counts every token generated for a finished sample.
"""

import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from srt.collect.collector import Collector, CollectorConfig
from srt.common.models import context_limit, eot_ids, load_tokenizer
from srt.common.name_values import read_name_values
from srt.contract.layout import Layout, PromptFormat
from srt.contract.phrases import load_phrases
from srt.contract.records import Problem
from srt.contract.seeds import sample_seed
from srt.problems import load_problems
from srt.sampling.base import Sample, SampleRequest, SamplingConfig, sample_all
from srt.sampling.vllm_parallel import VllmParallelSampler, engine_count
from srt.verifiers.math.grader import MathGrader
from srt.verifiers.types import Grader, Outcome, Verdict

MIN_LENGTH = 16  # tokens; of a drawn length


@dataclass(frozen=True)
class Options:
    model: str
    dataset: str
    problems: int = 512
    windows: str = "64,1024"  # problems in flight per engine
    max_tokens: int = 4096
    tail: str = ""  # MEDIAN,SIGMA; empty: the model's own lengths
    limit_seconds: float = 60
    loops: str = "continuous,barrier,offline"  # or one; continuous always runs
    max_batch: int = 0  # vLLM's max_num_seqs; 0: the largest window
    memory: float = 0.9
    engines: int = 0  # 0: all visible GPUs; one process without a GPU
    grading_workers: int = 2
    seed: int = 0
    prompt_suffix: str = PromptFormat().prompt_suffix
    json: str = ""  # file to write the measurements to


@dataclass
class Measurement:
    """Speed of one loop with one window."""

    loop: str
    window: int
    seconds: float
    complete: bool
    samples: int
    kept: int | None
    tokens: int
    kept_per_second: float | None = None
    tokens_per_second: float = 0.0
    vs_barrier: float | None = None  # kept tuples/s, relative to the barrier loop
    vs_offline: float | None = None  # tokens/s, relative to offline
    vs_one: float | None = None  # tokens/s, relative to one engine

    def __post_init__(self) -> None:
        self.tokens_per_second = self.tokens / self.seconds
        if self.kept is not None:
            self.kept_per_second = self.kept / self.seconds


class TimeIsUp(Exception):
    """limit_seconds have passed."""


class Recorder:
    """A sampler that records its requests, draws the lengths of `tail`, and stops at the time limit."""

    def __init__(self, sampler: VllmParallelSampler, options: Options, eot: tuple[int, ...]):
        self.sampler, self.eot = sampler, eot
        self.tail = None
        if options.tail:
            median, sigma = options.tail.split(",")
            self.tail = (float(median), float(sigma))
        self.limit_seconds = options.limit_seconds
        self.requests: dict[Hashable, SampleRequest] = {}
        self.finished: list[SampleRequest] = []  # with the resulting length
        self.tokens = 0
        self.started = time.monotonic()

    @property
    def pending(self) -> int:
        return self.sampler.pending

    def submit(self, key: Hashable, request: SampleRequest) -> None:
        if self.tail:
            request = replace(request, max_tokens=self._length(request, *self.tail))
        self.requests[key] = request
        self.sampler.submit(key, request)

    def poll(self) -> Iterable[tuple[Hashable, Sample]]:
        if time.monotonic() - self.started > self.limit_seconds:
            raise TimeIsUp
        return [(key, self._record(key, sample)) for key, sample in self.sampler.poll()]

    def close(self) -> None:
        """Nothing to do: the recorded sampler stays open for the next measurement."""

    def _length(self, request: SampleRequest, median: float, sigma: float) -> int:
        drawn = median * math.exp(sigma * random.Random(request.seed).gauss(0, 1))
        return min(max(MIN_LENGTH, round(drawn)), request.max_tokens)

    def _record(self, key: Hashable, sample: Sample) -> Sample:
        length = len(sample.token_ids)
        self.tokens += length
        self.finished.append(replace(self.requests.pop(key), max_tokens=length))
        if self.tail:
            for position, token in enumerate(sample.token_ids):
                if token in self.eot:
                    return Sample(sample.token_ids[: position + 1], "stop", None)
        return sample


class Bench:
    def __init__(self, options: Options):
        self.options = options
        tokenizer = load_tokenizer(options.model)
        eot = eot_ids(options.model, tokenizer)
        prompt = PromptFormat(prompt_suffix=options.prompt_suffix)
        self.layout = Layout(tokenizer, load_phrases("qwen"), prompt, eot)
        self.problems = load_problems(options.dataset, "math").problems[: options.problems]
        longest = max(len(self.layout.chat(problem.x)) for problem in self.problems)
        cue = max(len(self.layout.cue(r)) for r in (0, 1))
        self.max_model_len = min(context_limit(options.model), longest + 2 * options.max_tokens + cue)
        self.windows = [int(window) for window in options.windows.split(",")]
        self.engines = engine_count(options.engines or None, 1, "mp") or 1
        # With a tail, no token ends a response: its length is the request's.
        self.sampling = SamplingConfig(1.0, 0.9, () if options.tail else tuple(eot))
        self.sampler = VllmParallelSampler(
            options.model,
            self.sampling,
            max_model_len=self.max_model_len,
            max_batch=options.max_batch or max(self.windows),
            memory_utilization=options.memory,
            engines=self.engines,
        )

    def run(self) -> list[Measurement]:
        loops = self.options.loops.split(",")
        measurements = []
        requests: list[SampleRequest] = []
        with MathGrader(self.options.grading_workers, time_limit_seconds=10) as grader:
            grader.grade_all([(r"\boxed{1}", Problem("p", "?", "1"), "stop")] * 20)  # workers have started
            self._sample_at_once(self._first_requests())  # kernels are compiled and caches are warm
            for window in self.windows:
                ours, requests = self.continuous(grader, window * self.engines, self.problems)
                measurements.append(ours)
                if "one" in loops:
                    one = self.one_engine(grader, window)
                    measurements.append(one)
                    ours.vs_one = ours.tokens_per_second / one.tokens_per_second
                if "barrier" in loops:
                    barrier = self.barrier(grader, window * self.engines)
                    measurements.append(barrier)
                    if ours.kept_per_second is not None and barrier.kept_per_second:
                        ours.vs_barrier = ours.kept_per_second / barrier.kept_per_second
        if "offline" in loops:
            offline = self.offline(requests)
            for measurement in measurements:
                measurement.vs_offline = measurement.tokens_per_second / offline.tokens_per_second
            measurements.append(offline)
        return measurements

    def continuous(
        self, grader: Grader, window: int, problems: list[Problem]
    ) -> tuple[Measurement, list[SampleRequest]]:
        """The measurement, and the requests with the resulting lengths."""
        recorder = self._recorder()
        with tempfile.TemporaryDirectory() as folder:
            collector = Collector(
                problems, self.layout, recorder, grader, self._collector_config(window), Path(folder)
            )
            complete = True
            try:
                collector.run()
            except TimeIsUp:
                complete = False
            seconds = time.monotonic() - recorder.started
            collector.close()
        self.sampler.drop()
        while grader.pending:
            grader.poll(timeout=1.0)
        measurement = _measurement("continuous", window, seconds, complete, recorder, collector.stats.kept)
        return measurement, recorder.finished

    def one_engine(self, grader: Grader, window: int) -> Measurement:
        """The continuous loop on the first engine, while the others are idle."""
        self.sampler.engines = 1
        self.sampler.drop()  # forgets which groups are on other engines
        problems = self.problems[: len(self.problems) // self.engines]
        measurement, _ = self.continuous(grader, window, problems)
        self.sampler.engines = self.engines
        self.sampler.drop()
        return replace(measurement, loop="one engine")

    def barrier(self, grader: Grader, window: int) -> Measurement:
        recorder = self._recorder()
        recorder.limit_seconds = math.inf  # it stops between batches instead: half a batch has no tuples yet
        kept = done = 0
        for start in range(0, len(self.problems), window):
            if time.monotonic() - recorder.started > self.options.limit_seconds:
                break
            done = min(start + window, len(self.problems))
            kept += sum(verdict.correct for verdict in self._batch(grader, recorder, range(start, done)))
        seconds = time.monotonic() - recorder.started
        complete = done == len(self.problems)
        return _measurement("barrier", window, seconds, complete, recorder, kept)

    def _batch(self, grader: Grader, recorder: Recorder, indices: range) -> Iterator[Verdict]:
        """The verdicts on the revisions of some problems; two barriers for sampling, two for grading."""
        chats = [self.layout.chat(self.problems[index].x) for index in indices]
        responses, verdicts = self._step(grader, recorder, list(zip(indices, chats, strict=True)), "init")
        prompts = [
            (index, self.layout.revision_prompt(chat, response.token_ids, 0))
            for index, chat, response, verdict in zip(indices, chats, responses, verdicts, strict=True)
            if isinstance(verdict, Verdict) and not verdict.correct
        ]
        _, verdicts = self._step(grader, recorder, prompts, 0)
        yield from (verdict for verdict in verdicts if isinstance(verdict, Verdict))

    def _step(
        self, grader: Grader, recorder: Recorder, prompts: list[tuple[int, list[int]]], part: str | int
    ) -> tuple[list[Sample], list[Outcome]]:
        """The samples and their verdicts."""
        samples = sample_all(recorder, [self._request(index, prompt, part) for index, prompt in prompts])
        items = [
            (self.layout.decode(sample.token_ids), self.problems[index], sample.finish_reason)
            for (index, _), sample in zip(prompts, samples, strict=True)
        ]
        return samples, grader.grade_all(items)

    def offline(self, requests: list[SampleRequest]) -> Measurement:
        self._empty_caches()
        # No token ends these: they get the lengths recorded before.
        self.sampler.config = replace(self.sampling, eot_ids=())
        started = time.monotonic()
        lengths = self._sample_at_once(requests)
        seconds = time.monotonic() - started
        self.sampler.config = self.sampling
        print(f"offline: {seconds:.1f} s", flush=True)
        return Measurement("offline", len(requests), seconds, True, len(requests), None, sum(lengths))

    def _sample_at_once(self, requests: list[SampleRequest]) -> list[int]:
        """Sample with vLLM's own interface, without ours; returns the lengths."""

        async def all_of_them() -> list[Sample]:
            name = f"offline-{time.monotonic()}"
            return await asyncio.gather(
                *[self.sampler.generate(request, f"{name}-{n}") for n, request in enumerate(requests)]
            )

        samples = asyncio.run_coroutine_threadsafe(all_of_them(), self.sampler.loop).result()
        return [len(sample.token_ids) for sample in samples]

    def _first_requests(self) -> list[SampleRequest]:
        chats = [self.layout.chat(problem.x) for problem in self.problems[:64]]
        return [SampleRequest(chat, seed, max_tokens=32) for seed, chat in enumerate(chats)]

    def _request(self, index: int, prompt: list[int], part: str | int) -> SampleRequest:
        """The same request as the collector's."""
        seed = sample_seed(self.options.seed, self.problems[index].id, 0, part)
        room = self.max_model_len - len(prompt)
        return SampleRequest(prompt, seed, min(self.options.max_tokens, room), group=index)

    def _collector_config(self, window: int) -> CollectorConfig:
        return CollectorConfig(
            num_responses=1,
            num_revisions=1,
            revise=frozenset({0}),
            revise_truncated=True,
            max_tokens=self.options.max_tokens,
            max_model_len=self.max_model_len,
            max_in_flight=window,
            seed=self.options.seed,
            selection=None,
        )

    def _recorder(self) -> Recorder:
        self._empty_caches()
        return Recorder(self.sampler, self.options, tuple(self.layout.eot_ids))

    def _empty_caches(self) -> None:
        asyncio.run_coroutine_threadsafe(self.sampler.engine.reset_prefix_cache(), self.sampler.loop).result()


def _measurement(
    loop: str, window: int, seconds: float, complete: bool, recorder: Recorder, kept: int
) -> Measurement:
    print(f"{loop} {window}: {seconds:.1f} s", flush=True)
    return Measurement(loop, window, seconds, complete, len(recorder.finished), kept, recorder.tokens)


def table(measurements: list[Measurement]) -> str:
    def number(value: float | None, format_spec: str) -> str:
        return "-" if value is None else format(value, format_spec)

    lines = [
        "loop         window  seconds  samples    kept  kept/s   tokens/s  vs. barrier  vs. offline  vs. one",
        "-----------  ------  -------  -------  ------  ------  ---------  -----------  -----------  -------",
    ]
    for row in measurements:
        cells = [
            f"{row.loop:<11}",
            f"{row.window:>6}",
            f"{row.seconds:>6.1f}{' ' if row.complete else '*'}",
            f"{row.samples:>7}",
            f"{number(row.kept, 'd'):>6}",
            f"{number(row.kept_per_second, '.2f'):>6}",
            f"{row.tokens_per_second:>9,.0f}",
            f"{number(row.vs_barrier, '.2f'):>11}",
            f"{number(row.vs_offline, '.1%'):>11}",
            f"{number(row.vs_one, '.2f'):>7}",
        ]
        lines.append("  ".join(cells))
    if not all(row.complete for row in measurements):
        lines.append("* stopped at limit_seconds; rates up to then")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    options: Options = read_name_values(Options, arguments, __doc__)
    bench = Bench(options)
    measurements = bench.run()
    bench.sampler.close()
    print(f"\n{options.model}, {len(bench.problems)} problems, {bench.engines} engine(s)")
    print(f"max_tokens {options.max_tokens}, lengths {options.tail or 'of the model'}\n")
    print(table(measurements))
    if options.json:
        result = {
            "options": asdict(options),
            "measurements": [asdict(entry) for entry in measurements],
        }
        Path(options.json).write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
