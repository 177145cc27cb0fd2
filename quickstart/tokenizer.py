"""The tokenizer of the base model: byte-level BPE that covers any text and encodes the world compactly.

A problem has 18 tokens, a solution 33, and a control phrase with its blank lines a single one. The vocabulary is
the same for every seed.
"""

import re

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from quickstart.phrases import PHRASES
from quickstart.world import LABELS, OPERATIONS

PAD = "<|endoftext|>"
START = "<|im_start|>"
END = "<|im_end|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

CUES = [f"\n\n{phrase}\n\n" for phrase in PHRASES.values()]

# A cue is a single token, so that such a small model easily tells the two apart and its sequences stay short.
# The labels of a problem (" [A]") and of a solution ("\nA") are different tokens on purpose: when the model
# looks up an operand by its label, it must not attend to an earlier, possibly wrong, solution.
SPLIT = "|".join(map(re.escape, CUES)) + (
    r"| \[[A-E]\]|\n[A-E](?= )|\n\\boxed\{|\n+| ?[A-Za-z]+| ?\d| ?[^\sA-Za-z\d]+|\s+"
)


def _corpus() -> list[str]:
    """Text with every piece that should become one token, in its usual context."""
    steps = " ".join(f"[{label}] {op} 0" for label in LABELS for op in OPERATIONS)
    lines = "\n".join(f"{label} 0 {op} 0 = 0" for label in LABELS for op in OPERATIONS)
    digits = " ".join(f"{d} \\boxed{{{d}}}" for d in range(10))
    return [f"x = 0 {steps}", f"{lines}\n\\boxed{{0}}", digits, *CUES, "system\n", "user\n", "assistant\n"]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer with chat template, end-of-turn token and padding token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,  # more than the corpus can fill, so merging continues until every piece is one token
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes, so that any text round-trips
        show_progress=False,
    )
    core.train_from_iterator(_corpus(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
