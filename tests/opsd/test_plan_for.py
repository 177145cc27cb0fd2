"""PLAN_FOR: the memory plan for a machine that is not this one, with its arithmetic written out by hand.

The models are those of the paper, by their configs alone: Qwen3-4B and, for Phase 2's 7B, Olmo-3-7B.
"""

import json
import re

import pytest
from transformers import GenerationConfig, Olmo3Config, Qwen3Config

from opsd.config import DistillConfig
from opsd.distill import distill, prepare
from opsd.memory import memory_plan as distill_plan
from quickstart.tokenizer import build_tokenizer
from srt.collect.config import CollectConfig
from srt.collect.dry_run import memory_plan as collection_plan
from srt.collect.run import collect
from srt.common.errors import UserError
from srt.common.machine import Machine, stated_machine
from srt.common.memory_plan import GIB, ModelShape
from srt.config import load_config
from srt.sft.config import SftConfig
from srt.sft.plan import make_plan, memory_plan
from srt.sft.run import train
from tests.srt.helpers.stage_files import write_stage_files

OTHER = 1.5 * GIB
QWEN = {"vocab_size": 151936, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8}
CONFIGS = {
    "4B": Qwen3Config(
        **QWEN, hidden_size=2560, intermediate_size=9728, head_dim=128, tie_word_embeddings=True,
        max_position_embeddings=262144,
    ),
    "7B": Olmo3Config(vocab_size=100278, max_position_embeddings=65536),
    "8B": Qwen3Config(
        **QWEN, hidden_size=4096, intermediate_size=12288, head_dim=128, tie_word_embeddings=False,
        max_position_embeddings=40960,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders with a config and a tokenizer; nobody reads weights to plan."""
    folder, tokenizer = tmp_path_factory.mktemp("models"), build_tokenizer()
    for name, config in CONFIGS.items():
        config.architectures = [type(config).__name__.replace("Config", "ForCausalLM")]
        for part in (config, tokenizer, GenerationConfig(eos_token_id=tokenizer.eos_token_id)):
            part.save_pretrained(folder / name)
    return folder


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    lines = [{"id": f"p{n}", "problem": f"x = {n}", "answer": "7"} for n in range(130)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("text", "machine"),
    [
        ("8x80", Machine(8, int(78.8 * GIB), None, int(78.8 * GIB), 1, "8x80")),
        ("2x4X141+2000", Machine(4, int(138.885 * GIB), 2 * 10**12, int(138.885 * GIB), 2, "2x4X141+2000")),
    ],
)
def test_a_machine_is_stated_by_gpus_memory_and_machines(text, machine):
    assert stated_machine(text, dry_run=True) == machine
    assert stated_machine(None, dry_run=False) is None


@pytest.mark.parametrize("text", ["8", "x80", "0x80", "8x0", "8x80GB", "two", "1x2x3x4", "0x8x80"])
def test_anything_else_is_refused(text):
    with pytest.raises(UserError, match=f"PLAN_FOR={text}: expected GPUs x GB of each, such as 8x80"):
        stated_machine(text, dry_run=True)


@pytest.mark.parametrize("command", [collect, train, distill])
def test_a_real_run_takes_the_machine_it_is_on(command):
    with pytest.raises(UserError, match="PLAN_FOR=8x80 describes another machine, to plan for with --dry-run"):
        command(["plan_for=8x80"])


def knobs_of_distill(models, problems, size, *more):
    return [f"student_model={models / size}", f"train_dataset={problems}", "val_period=0", "prompt_suffix=", *more]


def plan_of_distill(models, problems, size, *more):
    config = load_config(DistillConfig, "distill", knobs_of_distill(models, problems, size, *more))
    machine = stated_machine(config.plan_for, dry_run=True)
    return distill_plan(prepare(config, machine), machine)


# Phase 2: eight GPUs, 128 problems a step, 8 192 tokens; a micro-batch has 0.6 x 16 384 = 9 830 student tokens.
BY_HAND = {
    "4B": {  # 4 022 468 096 parameters, of which the tied head has 151 936 x 2 560 = 388 956 160
        "student": 4 * 4_022_468_096 / 8,
        "gradients": 4 * 4_022_468_096 / 8,
        "Adam's moments": 8 * 4_022_468_096 / 8,
        "activations": 36 * 9830 * 2560 * 2 + 1.7 * 9830 * (28 * 2560 + 24 * 32 * 128 + 20 * 8 * 128 + 8 * 9728),
        "KL": 0,
        "heads": 12 * 388_956_160,
        "gathered layers": 8 * (4_022_468_096 - 388_956_160) / 36,
        "teacher's hidden states": 2 * 2560 * 128 * 8192 / 8,
        "other": OTHER,
    },
    "7B": {  # 7 298 011 136 parameters, of which the head has 100 278 x 4 096 = 410 738 688
        "student": 4 * 7_298_011_136 / 8,
        "gradients": 4 * 7_298_011_136 / 8,
        "Adam's moments": 8 * 7_298_011_136 / 8,
        "activations": 32 * 9830 * 4096 * 2 + 1.7 * 9830 * (28 * 4096 + 24 * 32 * 128 + 20 * 32 * 128 + 8 * 11008),
        "KL": 0,
        "heads": 12 * 410_738_688,
        "gathered layers": 8 * (7_298_011_136 - 410_738_688) / 32,
        "teacher's hidden states": 2 * 4096 * 128 * 8192 / 8,
        "other": OTHER,
    },
}


@pytest.mark.parametrize(("size", "gigabytes"), [("4B", 20.6), ("7B", 30.6)])
def test_phase_2_at_the_papers_setting_on_eight_gpus_of_80_gb(models, problems, size, gigabytes):
    plan = plan_of_distill(models, problems, size, "recipe=paper", "teacher_sync=none", "plan_for=8x80+1000")
    assert plan.title == "ENGINE=nemo-rl" and plan.fits
    assert plan.gpu["training"] == pytest.approx(BY_HAND[size], rel=1e-4)
    assert sum(plan.gpu["training"].values()) / GIB == pytest.approx(gigabytes, abs=0.05)
    kl = plan.gpu["computing the KL"]
    vocab, head, width = {"4B": (151936, 388_956_160, 2560), "7B": (100278, 410_738_688, 4096)}[size]
    assert kl["KL"] == 24 * 1024 * vocab and kl["heads"] == 12 * head
    parameters = {"4B": 4_022_468_096, "7B": 7_298_011_136}[size]
    sampling = plan.gpu["sampling"]
    assert sampling["sampler's weights"] == 2 * parameters
    # What torch sees of 80 GB, less 10 GiB for what vLLM takes beside its share.
    left = 80 * 0.985 * GIB - OTHER - 10 * GIB
    assert sampling["KV cache"] == pytest.approx(left - 2 * parameters, rel=1e-6)
    # Pinned memory: 4, 8 and 4 bytes a parameter, and a quarter more. Two processes a GPU and the driver.
    pinned = 1.25 * 16 * parameters
    assert plan.host_bytes == pytest.approx(pinned + 17 * 3.5 * GIB + 4 * GIB, rel=1e-4)


def test_sft_on_eight_gpus(models, tmp_path, capsys):
    """Four tuples an update: one on each of four GPUs, so that the longest pass is the longest tuple."""
    write_stage_files(tmp_path / "data", 8, lambda number: number)
    knobs = [f"base_model={models / '4B'}", f"train_data_dir={tmp_path / 'data'}", "data_prefix=p"]
    knobs += ["report_to=none", f"output_dir={tmp_path / 'out'}", "plan_for=8x80"]
    config = load_config(SftConfig, "sft", knobs)
    machine = stated_machine(config.plan_for, dry_run=True)
    plan = make_plan(config, dry_run=True)
    longest = max(length for stage in plan.stages for length in stage.lengths)
    memory = memory_plan(plan, machine)
    assert (plan.processes.total, plan.attention.packed) == (8, True)
    layer = (4_022_468_096 - 388_956_160) // 36
    assert memory.gpu["training"] == pytest.approx(
        {
            "weights": 4 * 4_022_468_096 / 8,
            "gradients": 4 * 4_022_468_096 / 8,
            "Adam's moments": 8 * 4_022_468_096 / 8,
            "weights in bf16": 2 * 388_956_160 + 8 * layer,
            "activations": 36 * longest * 2560 * 2
            + 1.7 * longest * (28 * 2560 + 24 * 4096 + 20 * 1024 + 8 * 9728),
            "loss": 0,
            "other": OTHER,
        },
        rel=1e-4,
    )
    # In fp32: the logits of 1 024 tokens and their gradient, and the gathered head with its gradient.
    assert memory.gpu["computing the loss"]["loss"] == 8 * 1024 * 151936 + 2 * 4 * 388_956_160
    assert memory.host == {"a whole copy": 8 * 4_022_468_096, "processes": 8 * int(3.5 * GIB)}
    train([*knobs, "--dry-run"])
    printed = capsys.readouterr().out
    assert "memory plan of stage 1 for PLAN_FOR=8x80, GiB on each GPU\n  training " in printed
    assert "  main memory of a machine    58.0: a whole copy 30.0, processes 28.0\n" in printed
    two_machines = load_config(SftConfig, "sft", [*knobs, "plan_for=2x8x80"])
    assert make_plan(two_machines, dry_run=True).processes.total == 16
    assert not (tmp_path / "out").exists()


def test_collection_on_eight_gpus(models, problems, tmp_path, capsys):
    knobs = [
        f"model_path={models / '4B'}",
        f"dataset={problems}",
        "prompt_suffix=",
        f"output_dir={tmp_path / 'o'}",
    ]
    collect([*knobs, "plan_for=8x80", "--dry-run"])
    printed = capsys.readouterr().out
    share = 0.9 * 80 * 0.985  # GiB
    cache = share - 2 * 4_022_468_096 / GIB
    assert "memory plan of 8 vLLM engines for PLAN_FOR=8x80, GiB on each GPU\n  sampling " in printed
    assert f" {share:.1f}: KV cache {cache:.1f}, sampler's weights 7.5\n" in printed
    # Key and value of 36 layers with 8 heads of 128 bf16 numbers: 147 456 bytes a token.
    (tokens,) = re.findall(r"KV cache of an engine: about ([\d,]+) tokens", printed)
    assert int(tokens.replace(",", "")) == pytest.approx(cache * GIB / 147_456, rel=1e-4)
    assert f"{9 * 3.5:.1f}: processes 31.5\n" in printed
    with pytest.raises(UserError, match="DATA_PARALLEL_SIZE=9 engines .*: only 8 are visible"):
        collect([*knobs, "plan_for=8x80", "data_parallel_size=9", "--dry-run"])


def test_an_engine_that_cannot_hold_one_sequence_does_not_fit(models, problems):
    shape = ModelShape(7_298_011_136, 100278, 32, 4096, 11008, 4096, 4096)
    config = load_config(CollectConfig, "srt_data", [f"model_path={models / '7B'}", f"dataset={problems}"])
    # 524 288 bytes a token: 16 GiB for 32 768 tokens, beside 13.6 GiB of weights.
    assert not collection_plan(config, shape, 32768, stated_machine("8x32", dry_run=True)).fits
    assert collection_plan(config, shape, 32768, stated_machine("8x34", dry_run=True)).fits


# Rows longer than a GPU ------------------------------------------------------------------------------------

LONG = ("max_total_sequence_length=16384", "max_teacher_tokens=32768")


def test_8b_with_teacher_rows_of_32k_does_not_fit_two_gpus_and_the_run_says_what_would(models, problems, capsys):
    plan = plan_of_distill(models, problems, "8B", "plan_for=2x85+1000", *LONG)
    assert not plan.fits and plan.phase == "training"
    inside = 1.7 * 16384 * (28 * 4096 + 24 * 4096 + 20 * 1024 + 8 * 12288)
    assert plan.gpu["training"]["activations"] == pytest.approx(36 * 16384 * 4096 * 2 + inside, rel=1e-6)
    assert plan.gpu["scoring"]["activations"] == 32768 * (8 * 4096 + 6 * 12288)
    distill([*knobs_of_distill(models, problems, "8B", "plan_for=2x85+1000", *LONG), "--dry-run"])
    printed = capsys.readouterr().out
    assert "does NOT fit: about 92.2 of 83.7 GiB on each GPU while training" in printed
    assert "a student's of 16,384 tokens takes 13.1 GiB of activations, 4.5 between 36 layers" in printed
    assert "a teacher's of 32,768 tokens 3.2; beside them are 61.0 of weights, gradients and Adam's" in printed
    assert "Try 4 GPUs (GPUS_PER_NODE, NUM_NODES), or sequences of 9728 tokens (MAX_TOTAL_SEQ" in printed
    with pytest.raises(UserError, match="a sequence is not split over GPUs: .*Try 4 GPUs .*; CHECK_MEMORY=0"):
        plan.check(stop=True)


@pytest.mark.parametrize(
    "change", ["plan_for=4x85+1000", "max_total_sequence_length=9728", "plan_for=2x2x85+1000"]
)
def test_what_the_sentence_names_fits(models, problems, change):
    assert plan_of_distill(models, problems, "8B", "plan_for=2x85+1000", *LONG, change).fits


def test_the_longest_sequence_is_not_named_too_short(models, problems):
    longer = ("max_total_sequence_length=9984", "max_teacher_tokens=32768")
    assert not plan_of_distill(models, problems, "8B", "plan_for=2x85+1000", *longer).fits


def test_tensor_parallelism_shares_what_is_inside_layers(models, problems):
    one, two = (
        plan_of_distill(models, problems, "8B", "plan_for=2x85+1000", *LONG, f"tensor_parallel_size={size}")
        for size in (1, 2)
    )
    saved = 1.7 * 16384 * (24 * 4096 + 20 * 1024 + 8 * 12288) / 2
    activations = [plan.gpu["training"]["activations"] for plan in (one, two)]
    assert activations[0] - activations[1] == pytest.approx(saved, rel=1e-6)
    hidden = [plan.gpu["training"]["teacher's hidden states"] for plan in (one, two)]
    assert hidden[1] == 2 * hidden[0]


def test_megatrons_stages_share_the_weights_and_context_parallel_ranks_the_positions(models, problems):
    def terms(*more):
        settings = ("plan_for=8x80", "trainer_backend=megatron", "max_total_sequence_length=16384", *more)
        return plan_of_distill(models, problems, "4B", *settings).gpu["training"]

    one, stages, ranks = terms(), terms("pipeline_parallel_size=2"), terms("context_parallel_size=2")
    for name in ("student", "gradients"):
        assert one[name] == 2 * stages[name] == ranks[name]
    assert one["activations"] == stages["activations"] == pytest.approx(2 * ranks["activations"])
    hidden = "teacher's hidden states"
    assert 2 * one[hidden] == stages[hidden] == ranks[hidden]


def test_engine_and_backend_are_those_of_the_stated_machine(models, problems, capsys):
    assert plan_of_distill(models, problems, "4B", "plan_for=1x80").title.startswith("ENGINE=local")
    megatron = plan_of_distill(models, problems, "4B", "plan_for=8x80", "trainer_backend=megatron")
    assert megatron.gpu["training"]["student"] == 2 * 4_022_468_096
    assert "engine: nemo-rl (ENGINE=auto, 8 GPUs)" in capsys.readouterr().out
