"""Collection speed, side by side on the same problems, model, seeds and engine.

    PYTHONPATH=self-revision-training python self-revision-training/benchmarks/collection.py \
        model=Qwen/Qwen2.5-Coder-1.5B-Instruct dataset=problems.jsonl problems=512 windows=64,1024 tail=600,1.0

- continuous: srt.collect.collector.Collector with that many problems in flight;
- barrier: sample that many problems, wait for all, grade all, sample the revisions, wait, grade, next batch;
- one engine (loops=...,one; with several): continuous with the first engine alone, its share of the problems and
  the window of each;
- offline: the very requests of the last continuous run (prompts, seeds and the lengths that came out) given to
  vLLM at once, without grading or writing: the most that this engine can do.

tail=MEDIAN,SIGMA replaces the model's own lengths, which are short on easy problems. Every request then generates
exactly L tokens, whatever the model says: L is log-normal with that median and sigma (of log L), drawn from the
request's seed and cut at max_tokens. What is handed on to grading is cut at the model's own first end of turn, so
verdicts are those of its own responses; a response that L cuts off is wrong, as always. Lengths depend on the
seed alone: they are the same in all three.

limit_seconds bounds each measurement, rates are then those until it stopped: the continuous run drops what is in
flight (its tokens are not counted), the barrier loop stops after the batch. Prefix caches are emptied before each.
Both ends of a run count, so problems should be several times the window. tokens/s counts every token generated
for a finished sample.
"""

import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from srt.collect.collector import Collector, CollectorConfig
from srt.common.models import context_limit, eot_ids, load_tokenizer
from srt.contract.layout import Layout, PromptFormat
from srt.contract.phrases import load_phrases
from srt.contract.records import Problem
from srt.contract.seeds import sample_seed
from srt.problems import load_problems
from srt.sampling.base import Sample, SampleRequest, SamplingConfig, sample_all
from srt.sampling.vllm_parallel import VllmParallelSampler, engine_count
from srt.verifiers.math.grader import MathGrader
from srt.verifiers.types import Outcome, Verdict

SHORTEST = 16  # tokens; of a drawn length


@dataclass(frozen=True)
class Options:
    model: str
    dataset: str
    problems: int = 512
    windows: str = "64,1024"  # problems in flight, for each engine
    max_tokens: int = 4096
    tail: str = ""  # MEDIAN,SIGMA; empty: the model's own lengths
    limit_seconds: float = 60
    loops: str = "continuous,barrier,offline"  # or one; the first always runs
    max_batch: int = 0  # vLLM's max_num_seqs; 0: the widest window
    memory: float = 0.9
    engines: int = 0  # 0: all visible GPUs; one process without a GPU
    grading_workers: int = 2
    seed: int = 0
    prompt_suffix: str = PromptFormat().prompt_suffix
    json: str = ""  # file to write the figures to


@dataclass
class Measurement:
    """One measurement."""

    loop: str
    window: int
    seconds: float
    complete: bool
    samples: int
    kept: int | None
    tokens: int
    kept_per_second: float | None = None
    tokens_per_second: float = 0.0
    to_barrier: float | None = None  # kept tuples/s, relative to the barrier loop's
    of_offline: float | None = None  # tokens/s, relative to offline
    to_one: float | None = None  # tokens/s, relative to one engine's

    def __post_init__(self) -> None:
        self.tokens_per_second = self.tokens / self.seconds
        if self.kept is not None:
            self.kept_per_second = self.kept / self.seconds


class TimeIsUp(Exception):
    pass


class Recorder:
    """A sampler that remembers what it was asked, draws the lengths of `tail`, and stops in time."""

    def __init__(self, sampler: VllmParallelSampler, options: Options, eot: tuple[int, ...]):
        self.sampler, self.eot = sampler, eot
        self.tail = tuple(float(part) for part in options.tail.split(",")) if options.tail else None
        self.limit_seconds = options.limit_seconds
        self.asked: dict[Hashable, SampleRequest] = {}
        self.finished: list[SampleRequest] = []  # with the length that came out
        self.tokens = 0
        self.started = time.monotonic()

    @property
    def pending(self) -> int:
        return self.sampler.pending

    def submit(self, key: Hashable, request: SampleRequest) -> None:
        if self.tail:
            request = replace(request, max_tokens=self._length(request))
        self.asked[key] = request
        self.sampler.submit(key, request)

    def poll(self) -> Iterable[tuple[Hashable, Sample]]:
        if time.monotonic() - self.started > self.limit_seconds:
            raise TimeIsUp
        return [(key, self._take(key, sample)) for key, sample in self.sampler.poll()]

    def _length(self, request: SampleRequest) -> int:
        median, sigma = self.tail
        drawn = median * math.exp(sigma * random.Random(request.seed).gauss(0, 1))
        return min(max(SHORTEST, round(drawn)), request.max_tokens)

    def _take(self, key: Hashable, sample: Sample) -> Sample:
        length = len(sample.token_ids)
        self.tokens += length
        self.finished.append(replace(self.asked.pop(key), max_tokens=length))
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
        self.settings = SamplingConfig(1.0, 0.9, () if options.tail else tuple(eot))
        self.sampler = VllmParallelSampler(
            options.model,
            self.settings,
            max_model_len=self.max_model_len,
            max_batch=options.max_batch or max(self.windows),
            memory_utilization=options.memory,
            engines=self.engines,
        )

    def run(self) -> list[Measurement]:
        loops = self.options.loops.split(",")
        rows = []
        with MathGrader(self.options.grading_workers, time_limit_seconds=10) as self.grader:
            self.grader.grade_all([(r"\boxed{1}", Problem("p", "?", "1"), "stop")] * 20)  # workers have started
            self._sample_at_once(self._first_requests())  # kernels are compiled and caches are warm
            for window in self.windows:
                row, requests = self.continuous(window * self.engines, self.problems)
                rows.append(row)
                if "one" in loops:
                    rows.append(self.one_engine(window))
                    row.to_one = row.tokens_per_second / rows[-1].tokens_per_second
                if "barrier" in loops:
                    rows.append(self.barrier(window * self.engines))
                    if rows[-1].kept:
                        row.to_barrier = row.kept_per_second / rows[-1].kept_per_second
        if "offline" in loops:
            offline = self.offline(requests)
            for row in rows:
                row.of_offline = row.tokens_per_second / offline.tokens_per_second
            rows.append(offline)
        return rows

    def continuous(self, window: int, problems: list[Problem]) -> tuple[Measurement, list[SampleRequest]]:
        """The row, and the requests with the lengths that came out."""
        recorder = self._recorder()
        with tempfile.TemporaryDirectory() as folder:
            collector = Collector(
                problems, self.layout, recorder, self.grader, self._collection(window), Path(folder)
            )
            complete = True
            try:
                collector.run()
            except TimeIsUp:
                complete = False
            seconds = time.monotonic() - recorder.started
            collector.close()
        self.sampler.drop()
        while self.grader.pending:
            self.grader.poll(timeout=1.0)
        row = self._row("continuous", window, seconds, complete, recorder, collector.counts.kept)
        return row, recorder.finished

    def one_engine(self, window: int) -> Measurement:
        """The others have nothing to do meanwhile."""
        self.sampler.engines = 1
        self.sampler.drop()  # with what it knows of the others
        row, _ = self.continuous(window, self.problems[: len(self.problems) // self.engines])
        self.sampler.engines = self.engines
        self.sampler.drop()
        return replace(row, loop="one engine")

    def barrier(self, window: int) -> Measurement:
        recorder = self._recorder()
        recorder.limit_seconds = math.inf  # it stops between batches instead: half a batch has no tuples yet
        kept = done = 0
        for start in range(0, len(self.problems), window):
            if time.monotonic() - recorder.started > self.options.limit_seconds:
                break
            done = min(start + window, len(self.problems))
            kept += sum(verdict.correct for verdict in self._batch(recorder, range(start, done)))
        seconds = time.monotonic() - recorder.started
        return self._row("barrier", window, seconds, done == len(self.problems), recorder, kept)

    def _batch(self, recorder: Recorder, indices: range) -> Iterator[Verdict]:
        """The verdicts on the revisions of some problems; two barriers for sampling, two for grading."""
        chats = [self.layout.chat(self.problems[index].x) for index in indices]
        responses, verdicts = self._step(recorder, list(zip(indices, chats, strict=True)), "init")
        prompts = [
            (index, self.layout.revision_prompt(chat, response.token_ids, 0))
            for index, chat, response, verdict in zip(indices, chats, responses, verdicts, strict=True)
            if isinstance(verdict, Verdict) and not verdict.correct
        ]
        _, verdicts = self._step(recorder, prompts, 0)
        yield from (verdict for verdict in verdicts if isinstance(verdict, Verdict))

    def _step(
        self, recorder: Recorder, prompts: list[tuple[int, list[int]]], part: str | int
    ) -> tuple[list[Sample], list[Outcome]]:
        """The samples and their verdicts."""
        samples = sample_all(recorder, [self._request(index, prompt, part) for index, prompt in prompts])
        items = [
            (self.layout.decode(sample.token_ids), self.problems[index], sample.finish_reason)
            for (index, _), sample in zip(prompts, samples, strict=True)
        ]
        return samples, self.grader.grade_all(items)

    def offline(self, requests: list[SampleRequest]) -> Measurement:
        self._empty_caches()
        # No token ends these: their lengths are those that came out before.
        self.sampler.settings = replace(self.settings, eot_ids=())
        started = time.monotonic()
        lengths = self._sample_at_once(requests)
        seconds = time.monotonic() - started
        self.sampler.settings = self.settings
        print(f"offline: {seconds:.1f} s", flush=True)
        return Measurement("offline", len(requests), seconds, True, len(requests), None, sum(lengths))

    def _sample_at_once(self, requests: list[SampleRequest]) -> list[int]:
        """Through vLLM's own interface, not ours."""

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
        """The request that the collector makes, too."""
        seed = sample_seed(self.options.seed, self.problems[index].id, 0, part)
        room = self.max_model_len - len(prompt)
        return SampleRequest(prompt, seed, min(self.options.max_tokens, room), group=index)

    def _collection(self, window: int) -> CollectorConfig:
        return CollectorConfig(
            num_responses=1,
            num_revisions=1,
            revise=frozenset({0}),
            revise_truncated=True,
            max_tokens=self.options.max_tokens,
            max_model_len=self.max_model_len,
            window=window,
            seed=self.options.seed,
            target=None,
        )

    def _recorder(self) -> Recorder:
        self._empty_caches()
        return Recorder(self.sampler, self.options, tuple(self.layout.eot_ids))

    def _empty_caches(self) -> None:
        asyncio.run_coroutine_threadsafe(self.sampler.engine.reset_prefix_cache(), self.sampler.loop).result()

    def _row(
        self, loop: str, window: int, seconds: float, complete: bool, recorder: Recorder, kept: int
    ) -> Measurement:
        print(f"{loop} {window}: {seconds:.1f} s", flush=True)
        return Measurement(loop, window, seconds, complete, len(recorder.finished), kept, recorder.tokens)


def table(rows: list[Measurement]) -> str:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    lines = [
        "loop         window  seconds  samples    kept  kept/s   tokens/s  to barrier  of offline  to one",
        "-----------  ------  -------  -------  ------  ------  ---------  ----------  ----------  ------",
    ]
    for row in rows:
        cells = [
            f"{row.loop:<11}",
            f"{row.window:>6}",
            f"{row.seconds:>6.1f}{' ' if row.complete else '*'}",
            f"{row.samples:>7}",
            f"{number(row.kept, 'd'):>6}",
            f"{number(row.kept_per_second, '.2f'):>6}",
            f"{row.tokens_per_second:>9,.0f}",
            f"{number(row.to_barrier, '.2f'):>10}",
            f"{number(row.of_offline, '.1%'):>10}",
            f"{number(row.to_one, '.2f'):>6}",
        ]
        lines.append("  ".join(cells))
    if not all(row.complete for row in rows):
        lines.append("* stopped at limit_seconds; rates until then")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    types = {field.name: field.type for field in fields(Options)}
    given = dict(argument.split("=", 1) for argument in arguments)
    options = Options(**{name: types[name](value) for name, value in given.items()})
    bench = Bench(options)
    rows = bench.run()
    bench.sampler.close()
    print(f"\n{options.model}, {len(bench.problems)} problems, {bench.engines} engine(s)")
    print(f"max_tokens {options.max_tokens}, lengths {options.tail or 'of the model'}\n")
    print(table(rows))
    if options.json:
        result = {"options": asdict(options), "rows": [asdict(row) for row in rows]}
        Path(options.json).write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
