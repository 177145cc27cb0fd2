"""Sampler, verifier and configuration through NeMo-RL's own interfaces, without Ray and without a GPU.

Needs NeMo-RL's source and its environment's packages, as test_nemo_engine.py does; skipped loudly otherwise.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig

from opsd.nemo_rl.driver.config import ClusterShape, cluster_shape, generation_config, policy_config
from opsd.nemo_rl.driver.megatron_config import megatron_section
from opsd.pairs import build_pair
from opsd.rollouts import RolloutWorker
from opsd.select_engine import nemo_rl_source
from srt.common.files import JsonlLog
from srt.contract.records import Problem
from srt.verifiers.types import VerifierError
from tests.opsd.helpers.needs_nemo_rl import missing, needs_nemo_rl

pytestmark = needs_nemo_rl("NeMo-RL's interfaces were NOT tested")


@pytest.fixture(scope="module", autouse=True)
def nemo_rl():
    if nemo_rl_source() and not missing:
        from opsd.nemo_rl.driver import runtime

        runtime.prepare()


@pytest.fixture(scope="module")
def environment():
    from opsd.nemo_rl.driver.verifier_environment import VerifierEnvironmentImpl

    config = SimpleNamespace(mode="math", grading_workers=1, grading_time_limit=10.0)
    environment = VerifierEnvironmentImpl({"grading": config})
    yield environment
    environment.grader.__exit__(None, None, None)


@pytest.fixture
def nemo_grader(environment, monkeypatch):
    """NemoGrader over the environment in this process."""
    from opsd.nemo_rl.driver import generation

    monkeypatch.setattr(generation.ray, "get", lambda result: result)
    return generation.NemoGrader(SimpleNamespace(step=SimpleNamespace(remote=environment.step)))


class ScriptedGeneration:
    """Answers like NeMo-RL's vLLM engines, with the next of `responses` after each prompt."""

    def __init__(self, responses, pad_id):
        self.responses, self.pad_id, self.asked = responses, pad_id, []

    def generate(self, data, greedy):
        from nemo_rl.distributed.batched_data_dict import BatchedDataDict
        from nemo_rl.models.generation.interfaces import verify_right_padding

        verify_right_padding(data, pad_value=self.pad_id)
        self.asked.append(data)
        shards = data.shard_by_batch_size(2, allow_uneven_shards=True)  # as VllmGeneration does
        assert [len(shard["seeds"]) for shard in shards] == [len(shard["max_tokens"]) for shard in shards]
        width = data["input_ids"].shape[1] + max(map(len, self.responses))
        ids = torch.full((data.size, width), self.pad_id)
        logprobs = torch.zeros(data.size, width)
        for row, (response, start) in enumerate(zip(self.responses, data["input_lengths"].tolist(), strict=True)):
            ids[row, :start] = data["input_ids"][row, :start]
            ids[row, start : start + len(response)] = torch.tensor(response)
            logprobs[row, start : start + len(response)] = -torch.arange(1.0, len(response) + 1)
        lengths = torch.tensor([len(response) for response in self.responses])
        return BatchedDataDict({"output_ids": ids, "logprobs": logprobs, "generation_lengths": lengths})


def test_rollouts_rows_and_seeds_are_the_local_engines(layout, make_rollout, nemo_grader, tmp_path):
    from opsd.nemo_rl.driver.generation import NemoSampler

    texts = [("\\boxed{7}", "stop"), ("A 1 + 1 = 2", "length"), ("\\boxed{8}", "stop")]
    rollouts = [make_rollout(text, finish_reason=reason, x=f"x = {n}") for n, (text, reason) in enumerate(texts)]
    problems = [Problem(id=f"id of x = {n}", x=f"x = {n}", answer="7") for n in range(3)]
    generation = ScriptedGeneration([rollout.y for rollout in rollouts], pad_id=0)

    sampler, set_aside = NemoSampler(generation, layout.eot_ids, 0), JsonlLog(tmp_path / "set_aside.jsonl")
    found = RolloutWorker(layout, nemo_grader, 100, 200, 5, set_aside).sample(sampler, problems, 3)
    assert [(r.y, r.finish_reason, r.r) for r in found] == [
        (rollout.y, rollout.finish_reason, r) for rollout, r in zip(rollouts, (1, 0, 0), strict=True)
    ]
    assert found[0].logprobs == [-float(n) for n in range(1, len(rollouts[0].y) + 1)]
    assert all(rollout.chat == layout.chat(problem.x) for rollout, problem in zip(found, problems, strict=True))
    assert build_pair(found[0], layout, 100).teacher == layout.teacher_sequence(found[0].chat, rollouts[0].y, 1)
    (asked,) = generation.asked
    assert len(set(asked["seeds"].tolist())) == 3
    assert asked["max_tokens"].tolist() == [100 - len(rollout.chat) for rollout in found]


def test_a_verifier_that_breaks_gives_no_reward(nemo_grader, environment):
    bad = Problem(id="bad", x="x", answer="")  # there is no gold answer to compare with
    good = Problem(id="good", x="x", answer="7")
    items = [("\\boxed{7}", bad, "stop"), ("\\boxed{7}", good, "stop")]
    broke, verdict = nemo_grader.grade_all(items)
    assert isinstance(broke, VerifierError) and str(broke)
    assert verdict.correct and verdict.extracted == "7"
    logs = [[{"role": "user", "content": "x"}, {"role": "assistant", "content": text}] for text, _, _ in items]
    metadata = [{"problem": problem, "finish_reason": reason} for _, problem, reason in items]
    returned = environment.step(logs, metadata)
    assert math.isnan(returned.rewards[0]) and returned.rewards[1] == 1
    assert returned.terminateds.all()


def test_our_actors_are_registered_with_this_python():
    import sys

    from nemo_rl.distributed.ray_actor_environment_registry import get_actor_python_env
    from nemo_rl.environments.utils import ENV_REGISTRY

    from opsd.nemo_rl.driver import runtime

    for name in (*runtime.WORKERS.values(), runtime.SAMPLER_WORKER, runtime.ENVIRONMENT):
        assert get_actor_python_env(name) == sys.executable
    assert ENV_REGISTRY[runtime.ENVIRONMENT_NAME] == {"actor_class_fqn": runtime.ENVIRONMENT}


def test_vllms_section_has_every_key_that_nemo_rl_asks_for(make_config, tiny_checkpoint):
    from nemo_rl.models.generation.vllm.config import VllmConfig, VllmSpecificArgs

    config = make_config(student_model=tiny_checkpoint)
    shape = cluster_shape(config, 1, AutoConfig.from_pretrained(tiny_checkpoint), 1)
    generation = generation_config(config, shape, 100, [1], 0, 0.5)
    assert VllmConfig.__required_keys__ <= generation.keys()
    assert VllmSpecificArgs.__required_keys__ <= generation["vllm_cfg"].keys()


def test_megatrons_section_has_every_key_that_nemo_rl_asks_for(make_config):
    from nemo_rl.models import policy

    section = megatron_section(make_config(), ClusterShape(1, 2, 2, 1), 10)
    assert policy.MegatronConfig.__required_keys__ <= section.keys()
    for name, part in (("Optimizer", "optimizer"), ("Scheduler", "scheduler")):
        assert getattr(policy, f"Megatron{name}Config").__required_keys__ <= section[part].keys()
    assert policy.MegatronDDPConfig.__required_keys__ <= section["distributed_data_parallel_config"].keys()


def test_the_schedule_and_optimizer_are_found_by_their_names(make_config, tiny_checkpoint):
    from hydra.utils import get_class

    config = make_config(student_model=tiny_checkpoint)
    shape = cluster_shape(config, 1, AutoConfig.from_pretrained(tiny_checkpoint), 1)
    policy = policy_config(config, shape, {}, 10)
    parameters = [torch.zeros(2, 2), torch.zeros(1)]
    optimizer = get_class(policy["optimizer"]["name"])(parameters, **policy["optimizer"]["kwargs"])
    scheduler = get_class(policy["scheduler"]["name"])(optimizer, **policy["scheduler"]["kwargs"])
    assert scheduler.get_last_lr() == pytest.approx([config.lr / (config.warmup_steps + 1)] * 2)
