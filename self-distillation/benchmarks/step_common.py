"""What over_issue.py and the arms of whole_step.py share: options, config, problems; the arms also lengths and
reports."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from engine import layout_of
from step_config import step_config

from opsd.config import RunConfig
from opsd.rollouts import RolloutWorker
from opsd.run import Run
from srt.contract.records import Problem
from srt.problems import ProblemSet
from srt.sampling.base import SampleRequest, SamplingConfig

LEARNING_RATE = 1e-12  # the weights stay what they are, whatever the arm


@dataclass(frozen=True)
class RunOptions:
    model: str
    data: str = ""  # problems; none: questions made up here
    prompts: int = 64  # responses of a step, all of them one update
    steps: int = 3  # that are timed
    warmup: int = 2  # the second is the first to move Adam's moments off the GPU, into memory pinned for them
    max_tokens: int = 4096  # the longest response
    prompt_tokens: int = 256  # the longest prompt
    tokens_per_micro_batch: int = 16384
    sampler: str = "auto"  # of the local engine
    sampler_batch: int = 256
    json: str = ""  # file for the figures


@dataclass(frozen=True)
class Options(RunOptions):
    arms: str = "matmul;offline;nemo-rl;stock;nemo-rl packing=1;local;local packing=0;local over_issue=0.25;trl"
    gpus: int = 0  # of the machine; 0: all visible ones
    arm_gpus: int = 0  # of an arm with several, such as nemo-rl; 0: all
    at_once: int = 1  # 1: arms run side by side where there are GPUs for them
    lengths: str = "600,0.8"  # median and sigma of the log-normal lengths; 4096,0: every response to the limit
    stock_tokens: int = 8192  # of a micro-batch in stock NeMo-RL, which has logits: its recipe's number
    stock_memory: float = 0.6  # vLLM's share of a GPU in stock NeMo-RL: its recipe's
    trl_memory: float = 0.3  # the same in TRL: its default
    matmul: int = 8192  # rows and columns of the matrices whose product gives the card's rate
    limit: float = 900.0  # seconds after which an arm is stopped
    commit: str = ""  # for the table; empty: git's
    table: str = ""  # file for the Markdown table


@dataclass(frozen=True)
class Step:
    """`lengths`: (prompt, y) in tokens, of each response that was trained on. `parts`: seconds of each."""

    seconds: float
    lengths: list[tuple[int, int]]
    parts: dict[str, float]
    peak_gib: float | None = None  # torch's, of the training part, on the fullest GPU


def length_of(chat: list[int], options: Options) -> int:
    """The tokens of the response to a prompt, in every arm: log-normal, a function of the prompt alone."""
    median, sigma = map(float, options.lengths.split(","))
    drawn = round(median * math.exp(sigma * random.Random(repr(chat)).gauss(0, 1)))
    room = options.prompt_tokens + options.max_tokens - len(chat)
    return max(1, min(max(8, drawn), options.max_tokens, room))


@dataclass(frozen=True)
class LengthByPrompt(RolloutWorker):
    """Responses end at the length of their prompt and nowhere else."""

    options: Options = Options("")

    def request(self, problem: Problem, step: int, position: int, purpose: str = "train") -> SampleRequest:
        request = super().request(problem, step, position, purpose)
        length = length_of(request.prompt_ids, self.options)
        return replace(request, max_tokens=length, sampling=SamplingConfig(1.0, 1.0, ()))


class BenchmarkRun(Run):
    """A run whose responses have those lengths."""

    def __init__(self, options: Options, *parts: Any):
        super().__init__(*parts)
        self.options = options

    def rollout_worker(self, *parts: Any) -> RolloutWorker:
        return LengthByPrompt(**vars(super().rollout_worker(*parts)), options=self.options)


def run_config(options: RunOptions, engine: str, folder: str, steps: int, knobs: dict[str, str]) -> RunConfig:
    """`knobs`: the arm's."""
    settings = {
        "engine": engine,
        "max_total_sequence_length": options.prompt_tokens + options.max_tokens,
        "tokens_per_micro_batch": options.tokens_per_micro_batch,
        "sampler": options.sampler,
        "sampler_batch": options.sampler_batch,
        "max_num_steps": steps,
        "lr": LEARNING_RATE,
        "output_dir": folder,
    }
    return step_config(options.model, options.prompts, **settings | knobs)


def read_problems(options: RunOptions) -> ProblemSet:
    from srt.problems import load_problems

    if options.data:
        return load_problems(options.data)
    count = options.prompts * options.steps
    made_up = [Problem(str(n), f"How many positive divisors does {n + 3600} have?", "45") for n in range(count)]
    return ProblemSet(made_up, [], "made up")


def prompts_in_order(options: Options) -> Iterator[tuple[Problem, list[int]]]:
    """The problems and chats of the warm-up, then of all timed steps, as an arm of our own sees them."""
    layout = layout_of(options.model)
    run = Run(
        run_config(options, "local", "unused", options.steps, {}), layout, read_problems(options), None, None
    )
    for steps in (options.warmup, options.steps):
        for step in range(steps):
            for problem in run.problems(step):
                yield problem, layout.chat(problem.x)


def in_steps(options: Options) -> list[list[list[int]]]:
    """The chats of each timed step."""
    chats = [chat for _, chat in prompts_in_order(options)][options.warmup * options.prompts :]
    return [chats[start : start + options.prompts] for start in range(0, len(chats), options.prompts)]
