"""A toy task on which the full pipeline runs in seconds: a tiny model that answers with one of two digits.

The model is briefly trained on templates: a few lines of working with random digits, then a box with 3 or 7,
whatever the problem. Every gold answer is 3 or 7, so for each problem about half of the responses and half of
the revisions are correct.
"""

import json
import random
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from quickstart.base_model import IGNORE, Document, Layout, collate, save_checkpoint, summed_loss
from quickstart.tokenizer import build_tokenizer

ANSWERS = (3, 7)
STEPS = 60
BATCH = 24
MAX_TOKENS = 20  # y has one, two or three lines: 10, 16 or 22 tokens, so a third is truncated


def problem_text(index: int) -> str:
    return f"x = {index // 10 % 10} [A] + {index % 10}"


def write_problems(path: Path, count: int) -> Path:
    """Writes `count` problems with alternating gold answers, in the format of users' data files."""
    records = [
        {"id": f"p{index:03d}", "problem": problem_text(index), "answer": str(ANSWERS[index % 2])}
        for index in range(count)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def save_answering_model(path: Path) -> None:
    """Trains the model and saves it as an ordinary checkpoint in bfloat16, like published models."""
    tokenizer = build_tokenizer()
    layout, rng = Layout(tokenizer), random.Random(0)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=128,
        initializer_range=0.1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(STEPS):
        loss, tokens = summed_loss(
            model, *collate([_document(layout, rng) for _ in range(BATCH)], tokenizer.pad_token_id)
        )
        (loss / tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    save_checkpoint(model.eval().to(torch.bfloat16), tokenizer, path)


def _document(layout: Layout, rng: random.Random) -> Document:
    """chat(x) + y + cue + y', both supervised; the label after y is the end of turn."""
    user = [{"role": "user", "content": problem_text(rng.randrange(100))}]
    prompt = layout.ids(layout.tokenizer.apply_chat_template(user, add_generation_prompt=True, tokenize=False))
    (y, labels), (revised, revised_labels) = layout.part(_answer(rng)), layout.part(_answer(rng))
    cue = layout.cues[rng.randrange(2)]
    ids = prompt + y + cue + revised + [layout.eot]
    return ids, [IGNORE] * len(prompt) + labels + [IGNORE] * (len(cue) - 1) + revised_labels


def _answer(rng: random.Random) -> str:
    digits = [rng.randrange(10) for _ in range(9)]
    lines = [f"{label} {a} + {b} = {c}" for label, a, b, c in zip("ABC", *[iter(digits)] * 3, strict=False)]
    return "\n".join([*lines[: rng.randint(1, 3)], f"\\boxed{{{rng.choice(ANSWERS)}}}"])
