"""Loads an exported student with the sampler of collection and samples from it.

MODEL=run/student SAMPLER=auto python -m experiments.eight_gpus.load_export
"""

import os
from contextlib import closing

from srt.common.entry_point import run_entry_point
from srt.common.errors import UserError
from srt.common.models import context_limit, eot_ids, load_tokenizer
from srt.common.name_values import show_help
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.from_config import choose_backend, open_sampler

RESPONSES, TOKENS = 8, 32


def main(arguments: list[str]) -> None:
    show_help(arguments, __doc__)
    model = os.environ["MODEL"]
    tokenizer = load_tokenizer(model)
    message = [{"role": "user", "content": "x = 1 [A] + 2"}]
    prompt = list(tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False))
    backend = choose_backend(os.environ.get("SAMPLER", "auto"))
    options = {"engines": 1} if backend == "vllm" else {}
    length = min(len(prompt) + TOKENS, context_limit(model))
    config = SamplingConfig(1.0, 1.0, tuple(eot_ids(model, tokenizer)))
    sampler = open_sampler(backend, model, config, max_model_len=length, max_batch=RESPONSES, **options)
    with closing(sampler):
        samples = sample_all(
            sampler, [SampleRequest(prompt, seed, length - len(prompt)) for seed in range(RESPONSES)]
        )
    if not all(sample.token_ids for sample in samples):
        raise UserError(f"{model}: {backend} loaded it, and a response is empty")
    print(f"{backend} loaded {model} and sampled {sum(len(sample.token_ids) for sample in samples)} tokens")


if __name__ == "__main__":
    run_entry_point(main)
