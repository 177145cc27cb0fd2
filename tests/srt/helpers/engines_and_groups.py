"""Engines of vLLM that start and end in this process, and whether torch's process group is there after each step.

Arguments: a checkpoint, and the name of a case. Prints a line for each step. The engines leave the group when they
end, as those of vLLM 0.20 do.
"""

import sys

import torch.distributed as dist

from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.vllm_common import prepare_vllm
from srt.sampling.vllm_inprocess import VllmSampler

REQUESTS = [SampleRequest([5, 6, 7], seed=seed, max_tokens=8) for seed in range(3)]


def engine(model: str) -> VllmSampler:
    config = SamplingConfig(1.0, 1.0, (2,))
    options = {"max_model_len": 64, "max_batch": 4, "dtype": "float32", "memory_utilization": 0.1}
    return VllmSampler(model, config, **options)


def ids(sampler: VllmSampler) -> list[list[int]]:
    return [sample.token_ids for sample in sample_all(sampler, REQUESTS)]


def say(step: str) -> None:
    print(f"{step}: {'group' if dist.is_initialized() else 'no group'}", flush=True)


def alone(model: str) -> None:
    sampler = engine(model)
    ids(sampler)
    say("open")
    sampler.close()
    say("closed")


def one_after_the_other(model: str) -> None:
    first, second = engine(model), engine(model)
    expected = ids(first)
    first.close()
    say("the second is open")
    assert ids(second) == expected
    second.close()
    say("both are closed")
    third = engine(model)
    say("the third is open")
    assert ids(third) == expected
    third.close()
    third.close()
    say("the third is closed")


def in_a_group_of_others(model: str) -> None:
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    engine(model).close()
    say("closed")
    dist.destroy_process_group()


def that_cannot_be_left(model: str) -> None:
    sampler = engine(model)
    dist.destroy_process_group = lambda *_: 1 / 0
    sampler.close()
    say("closed")


if __name__ == "__main__":
    prepare_vllm()
    import vllm.v1.engine.core as core

    if hasattr(core, "cleanup_dist_env_and_memory"):
        core.cleanup_dist_env_and_memory = lambda: None
    cases = (alone, one_after_the_other, in_a_group_of_others, that_cannot_be_left)
    {case.__name__: case for case in cases}[sys.argv[2]](sys.argv[1])
