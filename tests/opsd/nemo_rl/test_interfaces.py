"""Verifier and configuration through NeMo-RL's own interfaces, without Ray and without a GPU.

Needs NeMo-RL's source and its environment's packages, as test_nemo_engine.py does; skipped loudly otherwise.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig

from opsd.nemo_rl.driver.config import ClusterShape, cluster_shape, generation_config, policy_config
from opsd.nemo_rl.driver.megatron_config import megatron_section
from opsd.select_engine import nemo_rl_source
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
