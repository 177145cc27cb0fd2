"""TRAINER_BACKEND=megatron: our knobs as NeMo-RL's Megatron section, what it runs on, and what is refused."""

import pytest

from opsd import select_engine as select_engine_module
from opsd.nemo_rl.driver.config import ClusterShape, cluster_shape, policy_config
from opsd.nemo_rl.driver.megatron_config import check_megatron, describe_layers, megatron_section
from opsd.select_engine import check_engine
from srt.common.errors import UserError

ONE_GPU = ClusterShape(1, 1, 1, 1)


def test_the_optimisation_is_the_same_one_with_megatron(make_config, model_config):
    config = make_config(
        trainer_backend="megatron",
        student_model="m",
        lr=3e-6,
        adam_beta1=0.8,
        adam_beta2=0.9,
        weight_decay=0.1,
        max_grad_norm=0.5,
        gradient_checkpointing=0,
        lr_schedule="cosine",
        tensor_parallel_size=2,
    )
    policy = policy_config(config, cluster_shape(config, 4, model_config, 1), {}, total_updates=77)
    assert policy["dtensor_cfg"] == {"enabled": False}
    megatron = policy["megatron_cfg"]
    optimizer, schedule = megatron["optimizer"], megatron["scheduler"]
    assert (optimizer["lr"], optimizer["adam_eps"], optimizer["clip_grad"]) == (3e-6, 1e-8, 0.5)
    assert (optimizer["adam_beta1"], optimizer["adam_beta2"]) == (0.8, 0.9)
    assert optimizer["weight_decay"] == schedule["start_weight_decay"] == schedule["end_weight_decay"] == 0.1
    assert (schedule["lr_decay_style"], schedule["lr_decay_iters"]) == ("cosine", 77)
    assert (schedule["lr_warmup_iters"], schedule["lr_warmup_init"], optimizer["min_lr"]) == (
        5,
        pytest.approx(5e-7),
        0.0,
    )
    assert (megatron["tensor_model_parallel_size"], megatron["sequence_parallel"]) == (2, True)
    assert megatron["activation_checkpointing"] is False
    others = ("pipeline_model", "context", "expert_model", "expert_tensor")
    assert [megatron[f"{name}_parallel_size"] for name in others] == [1, 1, 1, 1]


def test_megatron_without_tensor_parallelism_does_not_split_sequences(make_config):
    assert megatron_section(make_config(), ONE_GPU, 10)["sequence_parallel"] is False


def test_megatron_gets_stages_and_positions_shared_as_the_knobs_say(make_config, model_config):
    config = make_config(trainer_backend="megatron", pipeline_parallel_size=2, context_parallel_size=4)
    shape = cluster_shape(config, 16, model_config, 1)
    assert (shape.data_parallel, shape.group) == (2, 8)
    assert "2-fold data parallel x 1-fold tensor parallel x 2-fold pipeline parallel x 4-fold context" in (
        shape.describe()
    )
    section = megatron_section(config, shape, 10)
    assert (section["pipeline_model_parallel_size"], section["context_parallel_size"]) == (2, 4)


def test_tensor_parallelism_by_size_counts_a_pipelines_stages_and_leaves_them_room(make_config, model_config):
    def tensor(gpus, **knobs):
        return cluster_shape(
            make_config(trainer_backend="megatron", **knobs), gpus, model_config, 9e9
        ).tensor_parallel

    assert (tensor(8), tensor(8, pipeline_parallel_size=2), tensor(2, context_parallel_size=2)) == (2, 1, 1)


def test_parallelism_that_does_not_fit_is_refused(make_config, model_config):
    config = make_config(trainer_backend="megatron", pipeline_parallel_size=2, context_parallel_size=2)
    with pytest.raises(UserError, match="TENSOR_PARALLEL_SIZE=1 x PIPELINE_PARALLEL_SIZE=2 x .* the 2 GPU"):
        cluster_shape(config, 2, model_config, 1)
    model_config.num_hidden_layers = 4
    config = make_config(student_model="m", teacher_model="m", pipeline_parallel_size=3)
    with pytest.raises(UserError, match="PIPELINE_PARALLEL_SIZE=3 must divide the 4 layers of m"):
        check_megatron(config, model_config)
    for knob in ("pipeline_parallel_size", "context_parallel_size"):
        with pytest.raises(UserError, match=f"{knob.upper()}=2 needs TRAINER_BACKEND=megatron"):
            check_engine(make_config(**{knob: 2}), "nemo-rl")


@pytest.fixture
def transformer_engine(monkeypatch):
    """transformer_engine(True): as if it were installed; transformer_engine(False): as if not."""

    def installed(is_there):
        why = None if is_there else "the package transformer-engine is not installed"
        monkeypatch.setattr(select_engine_module, "why_no_transformer_engine", lambda: why)

    return installed


def test_the_layers_are_transformer_engines_where_it_is_installed_and_the_run_says_which(
    make_config, transformer_engine
):
    used = {}
    for there in (True, False):
        transformer_engine(there)
        for knob in ("auto", "local", "te"):
            section = megatron_section(make_config(megatron_layers=knob), ONE_GPU, 10)
            fused = {section["apply_rope_fusion"], section["optimizer"]["use_precision_aware_optimizer"]}
            used[there, knob] = section["transformer_impl"]
            assert fused == {used[there, knob] == "transformer_engine"}
    assert [used[True, knob] for knob in ("auto", "local", "te")] == [
        "transformer_engine",
        "local",
        "transformer_engine",
    ]
    assert (used[False, "auto"], used[False, "local"]) == ("local", "local")
    assert describe_layers(make_config()).startswith(
        "MEGATRON_LAYERS=local, torch's attention and norms (MEGATRON_LAYERS=auto: "
    )
    assert "transformer-engine is not installed" in describe_layers(make_config())
    assert "warning" not in describe_layers(make_config())
    transformer_engine(True)
    line, warning = describe_layers(make_config()).splitlines()
    assert line.startswith("MEGATRON_LAYERS=te, Transformer Engine's")
    assert warning.startswith("warning: with rows of 8,192 tokens")


def test_layers_that_are_not_there_are_refused(make_config, monkeypatch, transformer_engine):
    monkeypatch.setattr(select_engine_module, "why_no_megatron", lambda: None)
    transformer_engine(False)
    check_engine(make_config(trainer_backend="megatron"), "nemo-rl")
    with pytest.raises(UserError, match="MEGATRON_LAYERS=te: .* MEGATRON_LAYERS=local does without"):
        check_engine(make_config(trainer_backend="megatron", megatron_layers="te"), "nemo-rl")
    with pytest.raises(UserError, match="MEGATRON_LAYERS=local needs TRAINER_BACKEND=megatron"):
        check_engine(make_config(megatron_layers="local"), "nemo-rl")


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("layer_types", ["full_attention", "sliding_attention"], "has layers of sliding_attention"),
        ("sliding_window", 128, "attends within a window"),
    ],
)
def test_a_model_that_needs_transformer_engines_layers_is_refused_without_them(
    make_config, model_config, transformer_engine, entry, value, message
):
    setattr(model_config, entry, value)
    model_config.use_sliding_window = True
    local = make_config(trainer_backend="megatron", student_model="m", teacher_model="m", megatron_layers="local")
    with pytest.raises(UserError, match=f"MEGATRON_LAYERS=local: m {message}.*MEGATRON_LAYERS=te"):
        check_megatron(local, model_config)
    transformer_engine(True)
    check_megatron(make_config(student_model="m", teacher_model="m"), model_config)


def test_megatrons_schedule_ends_behind_a_warm_up_that_a_short_run_does_not_reach(make_config):
    schedule = megatron_section(make_config(warmup_steps=5), ONE_GPU, 3)["scheduler"]
    assert schedule["lr_decay_iters"] > schedule["lr_warmup_iters"] == 5
    started = megatron_section(make_config(warmup_steps=20, warmup_start=0.1, lr=1e-5), ONE_GPU, 30)["scheduler"]
    assert started["lr_warmup_init"] == pytest.approx(1e-6)


def test_what_megatron_does_not_do_is_refused(make_config, model_config):
    config = make_config(trainer_backend="megatron", student_model="m", teacher_model="m")
    check_megatron(config, model_config)
    with pytest.raises(UserError, match="TEACHER_MODEL=another .*TRAINER_BACKEND=dtensor supports others"):
        check_megatron(make_config(student_model="m", teacher_model="another"), model_config)
    model_config.num_experts = 8
    with pytest.raises(UserError, match="m is a mixture of experts"):
        check_megatron(config, model_config)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("final_logit_softcapping", 30.0, "sets final_logit_softcapping=30.0.*TRAINER_BACKEND=dtensor"),
        ("logits_scaling", 8.0, "sets logits_scaling=8.0.*TRAINER_BACKEND=dtensor"),
        ("rope_parameters", {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, "depend on lengths"),
    ],
)
def test_megatron_refuses_what_only_the_other_workers_ask_the_model(
    make_config, model_config, entry, value, message
):
    config = make_config(trainer_backend="megatron", student_model="m", teacher_model="m")
    setattr(model_config, entry, value)
    with pytest.raises(UserError, match=message):
        check_megatron(config, model_config)


def test_megatron_needs_the_nemo_rl_engine_and_its_packages(make_config, monkeypatch):
    megatron = make_config(trainer_backend="megatron")
    check_engine(make_config(), "local")
    with pytest.raises(UserError, match="TRAINER_BACKEND=megatron needs ENGINE=nemo-rl, .* ENGINE=local"):
        check_engine(megatron, "local")

    def find(module):
        if module == "megatron.bridge":
            raise ModuleNotFoundError("megatron")  # as find_spec does where there is no parent
        return module

    monkeypatch.setattr("importlib.util.find_spec", find)
    with pytest.raises(UserError, match="megatron-bridge is not installed .*EXTRAS=megatron") as refusal:
        check_engine(megatron, "nemo-rl")
    assert "TRAINER_BACKEND=dtensor" in str(refusal.value)
    monkeypatch.setattr("importlib.util.find_spec", lambda module: module)
    check_engine(megatron, "nemo-rl")
