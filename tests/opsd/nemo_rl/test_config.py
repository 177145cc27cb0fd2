"""Our knobs as NeMo-RL's configuration, the cluster's shape, and which engine is chosen."""

import pytest

from opsd import select_engine as select_engine_module
from opsd.nemo_rl.driver.config import cluster_shape, generation_config, policy_config
from opsd.nemo_rl.driver.runtime import cluster_knob
from opsd.select_engine import check_engine, select_engine
from srt.common.errors import UserError
from srt.common.models import count_parameters

# The shape of the cluster --------------------------------------------------------------------------------


def test_a_small_model_is_not_split_over_the_gpus_it_could_have(make_config, model_config):
    shape = cluster_shape(make_config(num_nodes=2), 8, model_config, 4_000_000_000)
    assert (shape.gpus, shape.data_parallel) == (16, 16)
    assert (shape.tensor_parallel, shape.sampler_tensor_parallel) == (1, 1)


def test_a_large_one_is_as_far_as_its_heads_allow(make_config, model_config):
    assert cluster_shape(make_config(), 8, model_config, 30_000_000_000).tensor_parallel == 2


def test_megatron_splits_sooner(make_config, model_config):
    config = make_config(trainer_backend="megatron")
    assert [cluster_shape(config, 8, model_config, size).tensor_parallel for size in (4e9, 8e9)] == [1, 2]
    assert cluster_shape(config, 8, model_config, 8e9).sampler_tensor_parallel == 1


def test_asked_sizes_are_taken(make_config, model_config):
    config = make_config(gpus_per_node=4, tensor_parallel_size=2, sampler_tensor_parallel_size=1)
    shape = cluster_shape(config, 8, model_config, 1)
    assert (shape.gpus, shape.data_parallel, shape.tensor_parallel, shape.sampler_tensor_parallel) == (4, 2, 2, 1)


def test_vllm_gets_gpus_of_its_own(make_config, model_config):
    config = make_config(rollout_gpus=3)
    shape = cluster_shape(config, 8, model_config, 30e9)
    assert (shape.gpus, shape.data_parallel, shape.tensor_parallel) == (5, 5, 1)
    assert (shape.rollout_gpus, shape.sampler_tensor_parallel) == (3, 1)
    assert "5 GPU(s)" in shape.describe() and "3 vLLM engine(s) of 1 on 3 GPU(s) of their own" in shape.describe()
    resources = {"gpus_per_node": 3, "num_nodes": None}
    section = generation_config(config, shape, 1000, [5], 5, 0.8)
    assert section["colocated"] == {"enabled": False, "resources": resources}
    split = cluster_shape(make_config(rollout_gpus=4), 8, model_config, 30e9)
    assert (split.tensor_parallel, split.sampler_tensor_parallel) == (2, 2)
    together = cluster_shape(make_config(), 8, model_config, 1)
    assert generation_config(make_config(), together, 1000, [5], 5, 0.8)["colocated"]["enabled"] is True


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rollout_gpus": 8}, "ROLLOUT_GPUS=8: of 8 GPU.* at least one must be left to train"),
        ({"rollout_gpus": 1, "num_nodes": 2}, "ROLLOUT_GPUS=1 NUM_NODES=2: .* on one node only"),
        (
            {"rollout_gpus": 2, "sampler_tensor_parallel_size": 4},
            "SAMPLER_TENSOR_PARALLEL_SIZE=4 must divide the 2",
        ),
        ({"rollout_gpus": 2, "tensor_parallel_size": 4}, "TENSOR_PARALLEL_SIZE=4 must divide the 6"),
        ({"tensor_parallel_size": 3}, "TENSOR_PARALLEL_SIZE=3 must divide the 8"),
        ({"sampler_tensor_parallel_size": 4}, "SAMPLER_TENSOR_PARALLEL_SIZE=4 must .* 2 key-value heads"),
        ({"gpus_per_node": 9}, "GPUS_PER_NODE=9: 8 GPU"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_by_its_knob(make_config, model_config, settings, words):
    with pytest.raises(UserError, match=words):
        cluster_shape(make_config(**settings), 8, model_config, 1)


def test_parameters_are_counted_without_making_them(tiny_checkpoint):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    assert count_parameters(model.config) == model.num_parameters()


# The configuration ---------------------------------------------------------------------------------------


def test_the_update_is_described_to_the_dtensor_worker(make_config, model_config):
    """Its effect: test_dtensor_step.py."""
    settings = {"lr": 3e-6, "adam_beta1": 0.8, "adam_beta2": 0.9, "weight_decay": 0.1, "max_grad_norm": 0.5}
    config = make_config(student_model="m", gradient_checkpointing=0, lr_schedule="cosine", **settings)
    policy = policy_config(config, cluster_shape(config, 2, model_config, 1), {}, total_updates=77)
    assert policy["optimizer"]["name"] == "srt.common.optimizer.AdamW"
    kwargs = policy["optimizer"]["kwargs"]
    assert (kwargs["lr"], kwargs["betas"], kwargs["weight_decay"]) == (3e-6, [0.8, 0.9], 0.1)
    assert policy["max_grad_norm"] == 0.5
    assert policy["dtensor_cfg"]["activation_checkpointing"] is False
    assert policy["scheduler"] == {
        "name": "srt.common.optimizer.WarmupSchedule",
        "kwargs": {"kind": "cosine", "warmup_updates": 5, "total_updates": 77, "warmup_start": None},
    }
    unclipped = policy_config(make_config(max_grad_norm=0), cluster_shape(config, 2, model_config, 1), {}, 1)
    assert unclipped["max_grad_norm"] is None


def test_vllm_samples_as_the_knobs_say_and_stops_at_the_layouts_tokens(make_config, model_config):
    config = make_config(student_model="m", temperature=0.7, top_p=0.9, sampler_batch=99)
    overrides = {"rope_parameters": {"rope_type": "default"}}
    shape = cluster_shape(config, 1, model_config, 1)
    generation = generation_config(config, shape, 1000, [5, 6], 5, memory_utilization=0.3, hf_overrides=overrides)
    assert generation["vllm_kwargs"]["hf_overrides"] == overrides
    assert (generation["temperature"], generation["top_p"], generation["stop_token_ids"]) == (0.7, 0.9, [5, 6])
    assert generation["vllm_cfg"]["max_model_len"] == 1000
    assert generation["vllm_cfg"]["gpu_memory_utilization"] == 0.3
    assert generation["vllm_kwargs"]["max_num_seqs"] == 99
    assert generation["vllm_kwargs"]["max_cudagraph_capture_size"] is None  # vLLM's default is larger
    many = generation_config(make_config(sampler_batch=800), shape, 1000, [5, 6], 5, memory_utilization=0.3)
    assert many["vllm_kwargs"]["max_cudagraph_capture_size"] == 800
    assert generation["vllm_cfg"]["enforce_eager"] is False


# The choice ----------------------------------------------------------------------------------------------


@pytest.fixture
def nemo_rl(monkeypatch):
    """nemo_rl(why): as if that were missing; nemo_rl(None): as if it were all there."""
    return lambda why: monkeypatch.setattr(select_engine_module, "why_no_nemo_rl", lambda: why)


@pytest.mark.parametrize(
    ("requested", "gpus", "nodes", "missing", "engine", "reason"),
    [
        ("auto", 0, 1, None, "local", "no GPU"),
        ("auto", 1, 1, None, "local", "one GPU"),
        ("auto", 8, 1, None, "nemo-rl", "8 GPUs"),
        ("auto", 8, 2, None, "nemo-rl", "2 nodes"),
        ("local", 8, 1, None, "local", "ENGINE=nemo-rl uses all"),
        ("nemo-rl", 1, 1, None, "nemo-rl", "chosen by ENGINE"),
    ],
)
def test_the_engine_is_chosen_and_the_reason_given(nemo_rl, requested, gpus, nodes, missing, engine, reason):
    nemo_rl(missing)
    selected, explanation = select_engine(requested, gpus, nodes)
    assert selected == engine
    assert reason in explanation


@pytest.mark.parametrize(
    ("requested", "gpus", "nodes", "missing"),
    [
        ("nemo-rl", 0, 1, None),
        ("nemo-rl", 2, 1, "ray is not installed"),
        ("auto", 8, 1, "ray is not installed"),
        ("auto", 8, 2, "ray is not installed"),
    ],
)
def test_what_cannot_be_had_is_refused_in_a_sentence_that_names_the_local_engine(
    nemo_rl, requested, gpus, nodes, missing
):
    nemo_rl(missing)
    with pytest.raises(UserError, match="ENGINE=local") as refusal:
        select_engine(requested, gpus, nodes)
    assert (missing or "no GPU") in str(refusal.value)


@pytest.mark.parametrize(
    ("nodes", "address", "knob"),
    [(1, None, None), (1, "10.0.0.1:6379", "RAY_ADDRESS=10.0.0.1:6379"), (2, "10.0.0.1:6379", "NUM_NODES=2")],
)
def test_the_setting_by_which_a_cluster_is_joined(make_config, monkeypatch, nodes, address, knob):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster_knob(make_config(num_nodes=nodes)) == knob


def test_the_nemo_rl_engine_refuses_adapters(make_config):
    check_engine(make_config(lora_rank=8), "local")
    with pytest.raises(UserError, match="LORA_RANK=8: ENGINE=nemo-rl trains all weights"):
        check_engine(make_config(lora_rank=8), "nemo-rl")


@pytest.mark.parametrize(
    ("engine", "settings", "words"),
    [
        ("local", {"rollout_gpus": 1}, "ROLLOUT_GPUS=1 needs ENGINE=nemo-rl, and this run has ENGINE=local"),
        ("nemo-rl", {"rollout_ahead": 1}, "ROLLOUT_AHEAD=1: with ENGINE=nemo-rl .* give it GPUs of its own"),
        (
            "nemo-rl",
            {"rollout_gpus": 1, "trainer_backend": "megatron"},
            "ROLLOUT_GPUS=1: TRAINER_BACKEND=megatron",
        ),
    ],
    ids=str,
)
def test_where_vllm_cannot_sample_meanwhile_is_refused(make_config, engine, settings, words):
    with pytest.raises(UserError, match=words):
        check_engine(make_config(**settings), engine)
    check_engine(make_config(rollout_ahead=1), "local")
    check_engine(make_config(rollout_ahead=1, rollout_gpus=1), "nemo-rl")


@pytest.mark.parametrize("knob", ["reward_weight", "srt_replay"])
def test_the_nemo_rl_engine_refuses_the_terms_that_its_loss_does_not_have(make_config, knob):
    config = make_config(**{knob: 0.5})
    check_engine(config, "local")
    with pytest.raises(UserError, match=f"{knob.upper()}=0.5: ENGINE=nemo-rl has no such term in its loss"):
        check_engine(config, "nemo-rl")
    check_engine(make_config(kl_clip=0.5, loss_on="r0"), "nemo-rl")


def test_a_folder_without_nemo_rl_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("NEMO_RL_DIR", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert f"NEMO_RL_DIR={tmp_path} does not contain NeMo-RL" in select_engine_module.why_no_nemo_rl()
    package = tmp_path / "nemo_rl"
    package.mkdir()
    (package / "package_info.py").touch()
    assert "ray is not installed" in select_engine_module.why_no_nemo_rl()
    assert select_engine_module.nemo_rl_source() == tmp_path.resolve()
