"""The memory plan of Phase 2: from the knobs of a run, and before anything is written."""

import json
from dataclasses import replace

import pytest

from opsd import memory
from opsd.distill import distill
from srt.common.errors import UserError
from srt.common.machine import Machine
from srt.common.memory_plan import GIB, OTHER, ModelShape
from srt.common.sampler_memory import CACHE, WEIGHTS
from tests.opsd.helpers.problems import PROBLEMS

MACHINE = Machine(2, 80 * GIB, 500 * GIB, 80 * GIB)
SHAPE = ModelShape(10**6, vocab=1000, layers=2, width=64, inner=128, queries=64, keys=64)


@pytest.fixture
def plan(make_run, tiny_checkpoint):
    def plan(**settings):
        settings = {"gradient_checkpointing": 1, "max_total_sequence_length": 400} | settings
        run = make_run(tiny_checkpoint, PROBLEMS, **settings)
        return memory.memory_plan(run, MACHINE)

    return plan


def test_knobs_that_save_memory_show_in_the_plan(plan):
    default = plan()
    wasteful = plan(gradient_checkpointing=0)
    assert "GRADIENT_CHECKPOINTING=1" in wasteful.changes and "GRADIENT_CHECKPOINTING=1" not in default.changes
    assert default.gpu["training"]["activations"] < wasteful.gpu["training"]["activations"]
    fewer = plan(tokens_per_micro_batch=100)
    assert fewer.gpu["training"]["activations"] < default.gpu["training"]["activations"]
    assert plan(kl_grad_eps=1e-4).gpu["computing the KL"]["KL"] < default.gpu["computing the KL"]["KL"]
    assert plan(lora_rank=2).gpu["updating"]["Adam's moments"] < default.gpu["updating"]["Adam's moments"]
    offloaded = plan(offload=1)
    assert offloaded.gpu["training"]["Adam's moments"] == 0 and offloaded.host["Adam's moments"] > 0
    assert default.gpu["training"]["Adam's moments"] > 0


def test_nemo_rl_shards_over_all_gpus_and_nodes(plan):
    two, one, four = (
        plan(engine="nemo-rl", **settings) for settings in ({}, {"gpus_per_node": 1}, {"num_nodes": 2})
    )
    moments = [plan.gpu["training"]["Adam's moments"] for plan in (one, two, four)]
    assert moments == [4 * moments[2], 2 * moments[2], moments[2]]
    assert one.host["teacher"] == two.host["teacher"] == pytest.approx(2 * four.host["teacher"], abs=1)
    assert two.host["processes"] > one.host["processes"]
    settings = {"engine": "nemo-rl", "trainer_backend": "megatron", "tensor_parallel_size": 1}
    te, local = (plan(**settings, megatron_layers=layers).gpu["training"] for layers in ("te", "local"))
    assert te["gradients"] == local["gradients"] == 2 * two.gpu["training"]["gradients"]
    # Moments in fp32; of a master weight in fp32, Transformer Engine's Adam keeps half.
    assert 12 * te["Adam's moments"] == pytest.approx(10 * local["Adam's moments"], rel=1e-6)


def test_the_sampler_gets_what_the_plan_leaves_free(plan, monkeypatch):
    monkeypatch.setattr(memory, "has_vllm", lambda: True)

    def share(**settings):
        sampling = plan(**{"sampler": "vllm"} | settings).gpu["sampling"]
        return (sampling[WEIGHTS] + sampling[CACHE]) / (80 * GIB)

    nearly_all = (80 - (OTHER + memory.SAMPLER_RESERVE) / GIB) / 80  # a tiny model leaves nearly everything
    assert share(engine="nemo-rl") == pytest.approx(nearly_all, abs=1e-3)
    assert share() == pytest.approx(nearly_all, abs=1e-3)
    assert share(gpu_memory_utilization=0.25) == 0.25
    monkeypatch.setattr(memory, "_shape", lambda path: replace(SHAPE, parameters=3 * 10**9))
    at_rest = 4 + 2 + 8  # the student, the bf16 teacher and Adam's moments, in bytes a parameter
    expected = 80 - 3e9 * at_rest / GIB - (OTHER + memory.SAMPLER_RESERVE) / GIB
    assert share() == pytest.approx(expected / 80, abs=1e-3)
    assert share(offload=1) == pytest.approx((expected + 3e9 * 10 / GIB) / 80, abs=1e-3)
    assert share(engine="nemo-rl") == pytest.approx(nearly_all, abs=1e-3)  # its trainer has left the GPU


def test_a_sampler_that_stays_beside_the_trainer_is_in_every_phase(plan, monkeypatch):
    monkeypatch.setattr(memory, "has_vllm", lambda: True)
    monkeypatch.setattr(memory, "_shape", lambda path: replace(SHAPE, parameters=3 * 10**9))
    asleep, ahead = plan(sampler="vllm"), plan(sampler="vllm", rollout_ahead=1)
    assert {phase for phase, terms in asleep.gpu.items() if CACHE in terms} == {"sampling"}
    share = {terms[WEIGHTS] + terms[CACHE] for terms in ahead.gpu.values()}
    assert len(share) == 1 and share.pop() == pytest.approx(
        80 * GIB - memory.SAMPLER_RESERVE - max(map(without_sampler, asleep.gpu.values())), abs=GIB / 1000
    )
    assert ahead.gpu_bytes + memory.SAMPLER_RESERVE == pytest.approx(80 * GIB, abs=GIB / 1000)

    copies = plan(sampler="transformers", rollout_ahead=1).gpu
    assert {terms[memory.COPY] for terms in copies.values()} == {12 * 10**9}
    assert memory.COPY not in plan(sampler="transformers").gpu["training"]
    on_its_own = plan(engine="nemo-rl", rollout_ahead=1, rollout_gpus=1)
    assert {phase for phase, terms in on_its_own.gpu.items() if CACHE in terms} == {"sampling"}


def without_sampler(terms):
    return sum(size for name, size in terms.items() if name not in (WEIGHTS, CACHE))


@pytest.mark.parametrize(("sampler", "share"), [("vllm", 0.85625), ("transformers", 0.0)])
def test_the_share_is_that_of_the_plan(make_run, tiny_checkpoint, monkeypatch, sampler, share):
    monkeypatch.setattr(memory, "has_vllm", lambda: True)
    run = make_run(tiny_checkpoint, PROBLEMS, sampler=sampler)
    assert memory.sampler_share(run, MACHINE) == pytest.approx(share, abs=1e-3)


def test_a_run_that_does_not_fit_stops_before_it_writes_anything(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("opsd.distill.this_machine", lambda: Machine(0, None, 1_000_000))
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps({"id": "p", "problem": "x = 1", "answer": "1"}) + "\n")
    output = tmp_path / "out"
    arguments = [f"student_model={tiny_checkpoint}", f"train_dataset={problems}", f"output_dir={output}"]
    with pytest.raises(UserError, match="memory of ENGINE=local: does NOT fit: .*CHECK_MEMORY=0 starts"):
        distill([*arguments, "engine=local", "val_period=0"])
    assert not output.exists()
