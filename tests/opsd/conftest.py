"""What the tests of Phase 2 share: tiny checkpoints, rollouts made by hand, runs with few knobs to set."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from opsd.config import DistillConfig, RunConfig
from opsd.local.engine import LocalEngine
from opsd.pairs import build_pair
from opsd.response_queue import ResponseQueue
from opsd.rollouts import Rollout
from opsd.run import Run
from opsd.run_log import open_step_log
from quickstart.base_model import new_model, save_checkpoint
from quickstart.tokenizer import build_tokenizer
from srt.config import load_config
from srt.config_groups import PromptConfig
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.records import Problem
from srt.problems import ProblemSet
from srt.verifiers.math.grader import MathGrader
from tests.opsd.helpers.problems import PHRASES
from tests.opsd.helpers.runs import OpenRun


def problem(x, answer="7", id=None):
    return Problem(id=id or f"id of {x}", x=x, answer=answer)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory) -> Path:
    """The same architecture and tokenizer as tiny_checkpoint, other weights, those of the norms included."""
    folder = tmp_path_factory.mktemp("other") / "other-qwen3"
    tokenizer = build_tokenizer()
    model = new_model(tokenizer, seed=1)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # all ones in a new model
            parameter.data.uniform_(0.7, 1.3, generator=torch.Generator().manual_seed(len(name)))
    save_checkpoint(model, tokenizer, folder)
    return folder


def save_trained(examples: list[tuple[str, str, str]], tokenizer, steps: int, folder: Path) -> Path:
    """A model trained on (x, what the assistant has said, what it says next) alone."""
    model = new_model(tokenizer, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    batches: dict[tuple[int, int], list[list[int]]] = {}  # (prompt, sequence) lengths -> ids: no padding
    for x, said, next_text in examples:
        message = [{"role": "user", "content": x}]
        chat = list(tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False))
        prompt = chat + tokenizer.encode(said)
        ids = prompt + tokenizer.encode(next_text) + [tokenizer.eos_token_id]
        batches.setdefault((len(prompt), len(ids)), []).append(ids)
    for _ in range(steps):
        optimizer.zero_grad()
        for (start, _), sequences in batches.items():
            ids = torch.tensor(sequences)
            logits = model(ids).logits[:, start - 1 : -1]
            F.cross_entropy(logits.flatten(0, 1), ids[:, start:].flatten()).backward()
        optimizer.step()
    save_checkpoint(model, tokenizer, folder)
    return folder


COIN = [(x, "", f"\\boxed{{{digit}}}") for x in ("x = 1 [A] + 1", "x = 5 [A] * 3") for digit in "78"]


@pytest.fixture(scope="session")
def coin_checkpoint(tmp_path_factory) -> Path:
    """A model that answers every problem with \\boxed{7} or \\boxed{8}, each about half of the time."""
    return save_trained(COIN, build_tokenizer(), 30, tmp_path_factory.mktemp("coin") / "coin-qwen3")


@pytest.fixture(scope="session")
def reviser_checkpoint(tmp_path_factory) -> Path:
    """The coin model, which also revises: asked to, it answers \\boxed{7}."""
    revisions = [(x, f"{said}\n\n{PHRASES[r]}\n\n", "\\boxed{7}") for x, _, said in COIN for r in (0, 1)]
    return save_trained(
        COIN + revisions, build_tokenizer(), 60, tmp_path_factory.mktemp("reviser") / "reviser-qwen3"
    )


@pytest.fixture(scope="session")
def layout(tiny_checkpoint):
    """The layout of all the tiny checkpoints: one tokenizer, the default phrases, no suffix."""
    return layout_of_checkpoint(str(tiny_checkpoint), PromptConfig("math", None, None, "", None))


@pytest.fixture(scope="session")
def grader():
    with MathGrader(1, time_limit_seconds=10.0) as grader:
        yield grader


@pytest.fixture(scope="session")
def make_rollout(layout):
    """make_rollout("A 1 + 1 = 2", r=0) is a graded response with its end of turn, unless it was cut off."""

    def make(text, r=0, *, x="x = 1 [A] + 1", finish_reason="stop"):
        y = layout.tokenizer.encode(text)
        if finish_reason == "stop":
            y = layout.with_eot(y)
        return Rollout(problem(x), layout.chat(x), y, [-1.0] * len(y), finish_reason, r)

    return make


@pytest.fixture(scope="session")
def five_pairs(make_rollout, layout):
    """Right and wrong, ended and cut off, of different prompts and lengths."""
    rollouts = [
        make_rollout("A 1 + 1 = 2\nB 2 * 3 = 6\n\\boxed{6}", r=1),
        make_rollout("\\boxed{3}", r=0, x="x = 5 [A] * 3 [B] - 2"),
        make_rollout("A 4 - 1 = 3\nB 3 +", r=0, x="x = 4", finish_reason="length"),
        make_rollout("A 9 * 9 = 1\n\\boxed{1}", r=1, x="x = 9 [A] * 9"),
        make_rollout("7", r=0),
    ]
    return [build_pair(rollout, layout, 100) for rollout in rollouts]


@pytest.fixture
def make_config():
    """make_config(lr=1e-3) is the configuration of configs/distill.yaml with some knobs set."""

    def make(**settings) -> RunConfig:
        config = load_config(DistillConfig, "distill", [f"{name}={value}" for name, value in settings.items()])
        student = config.student_model or "the student"
        models = {"student_model": student, "teacher_model": config.teacher_model or student}
        return RunConfig(**(vars(config) | models))

    return make


@pytest.fixture
def make_run(make_config, layout, tmp_path):
    """A run over a tiny checkpoint: few problems, short responses, no validation unless asked for."""

    def make(student, problems, *, validation=None, teacher=None, folder="run", **settings) -> Run:
        settings = {
            "student_model": student,
            "teacher_model": teacher or student,
            "prompt_suffix": "",
            "sampler": "transformers",
            "num_prompts_per_step": 4,
            "train_global_batch_size": 4,
            "max_total_sequence_length": 40,
            "gradient_checkpointing": 0,
            "grading_workers": 1,
            "warmup_steps": 0,
            "report_to": "none",
        } | settings
        problem_sets = [ProblemSet(p, [], "a fingerprint") if p else None for p in (problems, validation)]
        return Run(make_config(**settings), layout, *problem_sets, tmp_path / folder)

    return make


@pytest.fixture
def open_run(make_run, grader):
    """open_run(student, problems, ...) is a run with its engine, ready for single steps."""

    def make(*arguments, **settings) -> OpenRun:
        run = make_run(*arguments, **settings)
        engine = LocalEngine(run, grader)
        set_aside = open_step_log(run.output_dir / "set_aside.jsonl", engine.start_step)
        responses = ResponseQueue(run, run.rollout_worker(grader, set_aside), engine.start_step)
        return OpenRun(run, engine, responses)

    return make
