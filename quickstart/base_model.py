"""Trains the base model of the quickstart: a 0.6 M parameter Qwen3 that slips and knows both control phrases.

The training text mixes three kinds of documents, the last two in the token layout of the real pipeline:

    drill     the lines of a solution, without its problem
    revision  chat(x) + y + cue(r) + y' + eot                 y as sampled, r its true reward
    chain     chat(x) + y + cue(0) + y' + cue(1) + y' + eot   y wrong, y' correct

A revision is supervised on y and on y'. After y the target is the end of turn instead of the cue, so that the
document doubles as a plain chat(x) + y + eot and the model never produces a cue by itself. A chain is supervised
only on its last part, a drill only on the results of the steps. All kinds are mixed from the first step on: a
base model that learns the facts first, from drills alone, never learns to copy a correct answer well.

The text must contain both phrases: a base model that has never seen the phrase for r = 1 cannot keep a correct
answer later, and as a teacher it makes its student worse.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from quickstart.phrases import PHRASES
from quickstart.tokenizer import build_tokenizer
from quickstart.world import BASE_CLASSES, Problem, World, is_correct, problem_stream

logging.disable_progress_bar()  # "Writing model shards", of one shard

IGNORE = -100


@dataclass(frozen=True)
class BaseTrainingConfig:
    """How the base model is trained."""

    steps: int = 380
    drill: int = 16  # documents per step
    revision: int = 28
    chain: int = 4
    learning_rate: float = 2e-3
    decay_share: float = 0.3  # the learning rate decays over this last share of the steps
    final_share: float = 0.05  # ... to this share of its peak
    warmup: int = 40
    weight_decay: float = 0.05
    repair_probability: float = 0.15
    keep_probability: float = 0.95


# Token ids and, of the same length, the target *at* each position, IGNORE where there is none.
Document = tuple[list[int], list[int]]


class Layout:
    """Token ids of the documents; the parts are tokenized separately and concatenated."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.eot = tokenizer.eos_token_id
        self.cues = {r: self.ids(f"\n\n{phrase}\n\n") for r, phrase in PHRASES.items()}

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def chat(self, problem: Problem) -> list[int]:
        """The prompt: a user turn and the start of the assistant turn."""
        turns = [{"role": "user", "content": problem.text}]
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return self.ids(text)

    def part(self, text: str) -> Document:
        """Ids and labels of a supervised part; the last label, one position further, is the end of turn."""
        ids = self.ids(text)
        return ids, [*ids, self.eot]


def documents(world: World, layout: Layout, training: BaseTrainingConfig) -> Iterator[list[list[Document]]]:
    """An endless stream of steps: one batch per kind of document, each padded to its own length."""
    rng = world.rng("base text")
    problems = problem_stream(rng, BASE_CLASSES)
    while True:
        yield [
            [_drill(world, layout, next(problems), rng) for _ in range(training.drill)],
            [_revision(world, layout, next(problems), rng, training) for _ in range(training.revision)],
            list(itertools.islice(_chains(world, layout, problems, rng), training.chain)),
        ]


def _drill(world: World, layout: Layout, problem: Problem, rng: random.Random) -> Document:
    lines = world.attempt(problem, rng).splitlines()[:-1]  # without the box
    ids = layout.ids("\n".join(lines))
    equals = layout.ids(" =")[0]
    results = [False] + [previous == equals for previous in ids[:-1]]
    return ids, [token if result else IGNORE for token, result in zip(ids, results, strict=True)]


def _revision(
    world: World, layout: Layout, problem: Problem, rng: random.Random, training: BaseTrainingConfig
) -> Document:
    attempt = world.attempt(problem, rng)
    reward = int(is_correct(attempt, problem))
    revised = world.revision(problem, attempt, reward, rng, training.repair_probability, training.keep_probability)
    prompt, cue = layout.chat(problem), layout.cues[reward]
    y, y_labels = layout.part(attempt)
    y_revised, revised_labels = layout.part(revised)
    # The label at the first token of the cue is the end of turn of y; the rest of the cue has none.
    labels = [IGNORE] * len(prompt) + y_labels + [IGNORE] * (len(cue) - 1) + revised_labels
    return prompt + y + cue + y_revised + [layout.eot], labels


def _chains(world: World, layout: Layout, problems: Iterator[Problem], rng: random.Random) -> Iterator[Document]:
    for problem in problems:
        wrong = world.failed_attempt(problem, rng)
        if wrong is None:
            continue
        right, right_labels = layout.part(world.solution(problem))
        before = layout.chat(problem) + layout.ids(wrong) + layout.cues[0] + right + layout.cues[1]
        yield before + right + [layout.eot], [IGNORE] * len(before) + right_labels


def collate(batch: list[Document], pad: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids and labels, both (B, T). Attention is causal, so no mask is needed."""
    length = max(len(ids) for ids, _ in batch)
    ids_BT = torch.full((len(batch), length), pad)
    labels_BT = torch.full((len(batch), length), IGNORE)
    for row, (ids, labels) in enumerate(batch):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        labels_BT[row, : len(ids)] = torch.tensor(labels)
    return ids_BT, labels_BT


def summed_loss(model: Qwen3ForCausalLM, ids_BT: Tensor, labels_BT: Tensor) -> tuple[Tensor, int]:
    """The cross entropy summed over the supervised tokens (nats), and their number."""
    hidden_BTD = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
    target_BT = labels_BT[:, 1:]
    supervised_BT = target_BT != IGNORE
    logits_NV = model.lm_head(hidden_BTD[:, :-1][supervised_BT])  # supervised positions only
    target_N = target_BT[supervised_BT]
    return F.cross_entropy(logits_NV, target_N, reduction="sum"), target_N.numel()


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """An untrained Qwen3 with about 0.6 M parameters."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        intermediate_size=344,
        initializer_range=0.08,  # near 1 / sqrt(d); such a small model learns more slowly from the usual 0.02
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def learning_rate_factor(step: int, training: BaseTrainingConfig) -> float:
    """The share of the peak learning rate: linear warm-up, plateau, and linear decay to `final_share`."""
    if step < training.warmup:
        return (step + 1) / training.warmup
    decay_steps = round(training.steps * training.decay_share)
    remaining = min(1.0, (training.steps - step) / max(1, decay_steps))
    return training.final_share + (1 - training.final_share) * remaining


def train_base(
    world: World, training: BaseTrainingConfig, report: Callable[[int, float], None] = lambda step, loss: None
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """Train a base model for `world`. `report` is called with each step and its mean loss per token (nats)."""
    tokenizer = build_tokenizer()
    model = new_model(tokenizer, world.seed).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, betas=(0.9, 0.98), weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, training))
    stream = documents(world, Layout(tokenizer), training)
    for step, kinds in enumerate(itertools.islice(stream, training.steps)):
        total, count = 0.0, 0
        for batch in kinds:
            loss, tokens = summed_loss(model, *collate(batch, tokenizer.pad_token_id))
            loss.backward()
            total, count = total + loss.item(), count + tokens
        for parameter in model.parameters():
            parameter.grad.div_(count)  # one denominator for all kinds: the supervised tokens of the step
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        report(step, total / count)
    return model.eval(), tokenizer


def save_checkpoint(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Write a Hugging Face checkpoint: weights, config, generation config, tokenizer, chat template."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
