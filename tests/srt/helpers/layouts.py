"""Layouts of two styles of chat template over a tokenizer of a few words."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from srt.contract.layout import Layout, PromptFormat
from srt.contract.phrases import PhraseSet

# A period and a blank line become one token when tokenized together, as in real vocabularies.
VOCAB = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "system",
    "user",
    "assistant",
    "\n",
    "\n\n",
    ".\n\n",
    ".",
    " ",
    "Add",
    "1",
    "2",
    "3",
    "Think",
    "Brief",
    "Help",
    "No",
    "Ok",
    "?",
]
PIECES = r"<\|\w+\|>|</?think>|\.\n\n|\n\n|\n|\.| |\w+"
PHRASES = PhraseSet("short", wrong="No.", right="Ok.")
THINK = PromptFormat(prompt_suffix="Think")

QWEN_STYLE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

# Starts with a BOS token, and adds its own system message if none is given.
OLMO_STYLE = """\
{{- bos_token }}
{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nHelp<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

QWEN_CHAT = [
    "<|im_start|>",
    "user",
    "\n",
    "Add",
    " ",
    "1",
    "\n\n",
    "Think",
    "<|im_end|>",
    "\n",
    "<|im_start|>",
    "assistant",
    "\n",
]
OLMO_CHAT = ["<|endoftext|>", "<|im_start|>", "system", "\n", "Help", "<|im_end|>", "\n", *QWEN_CHAT]
CUE = {0: ["\n\n", "No", ".\n\n"], 1: ["\n\n", "Ok", ".\n\n"]}
EOT = "<|im_end|>"


def new_tokenizer(template: str | None, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCAB)}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    core.decoder = decoders.Fuse()
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|endoftext|>",
        eos_token=EOT,
        additional_special_tokens=["<|im_start|>"],
        name_or_path="some/model",
    )
    tokenizer.chat_template = template
    return tokenizer


def new_layout(style: str = "qwen", prompt: PromptFormat = THINK) -> Layout:
    tokenizer = new_tokenizer(*{"qwen": (QWEN_STYLE, False), "olmo": (OLMO_STYLE, True)}[style])
    return Layout(tokenizer, PHRASES, prompt, eot_ids=[2, 0])


def ids(tokens: list[str]) -> list[int]:
    return [VOCAB.index(token) for token in tokens]


def tokens(ids_: list[int]) -> list[str]:
    return [VOCAB[index] for index in ids_]


Y = ["1", "."]
Y_REVISED = ["2", "."]
