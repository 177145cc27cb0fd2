"""SFT on GPUs: bf16 updates against float64 for many lengths, packed and padded; two GPUs against one."""

import math
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from srt.collect.split import metadata_path
from srt.common.files import read_json, write_json
from srt.common.models import load_tokenizer
from srt.config import load_config
from srt.contract.layout import TokenSequence
from srt.contract.phrases import PHRASE_SETS
from srt.sft.config import SftConfig
from tests.end_to_end.commands import interrupt_script, run_script
from tests.srt.helpers.sft_updates import largest_difference, naive_update, one_update

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
PHRASES = PHRASE_SETS["qwen"]


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory, request) -> Path:
    """Two layers with Qwen2.5's head width and grouped heads, and the tiny checkpoint's tokenizer."""
    tiny = request.getfixturevalue("tiny_checkpoint")
    folder = tmp_path_factory.mktemp("qwen2")
    tokenizer = load_tokenizer(str(tiny))
    config = Qwen2Config(
        vocab_size=512,
        hidden_size=768,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_sequences(lengths: list[int]) -> list[TokenSequence]:
    draw = random.Random(0)
    return [TokenSequence([draw.randrange(3, 300) for _ in range(n)], start=draw.randrange(1, n)) for n in lengths]


LENGTHS = {
    "around 64": [1, 63, 64, 65, 2, 127, 128, 129],
    "64 mod 128": [64, 192, 320, 448, 576, 704, 832, 960],
    "unequal": [700, 33, 1024, 1023, 5, 257, 1200, 511],
}


@pytest.fixture(scope="module")
def one_gpu_process() -> Iterator[ProcessPoolExecutor]:
    """A process that sees only the first GPU, free of what other tests leave behind in this process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0])
            assert pool.submit(torch.cuda.device_count).result() == 1
        yield pool


def update_and_differences(*update) -> tuple[float, bool, float, float]:
    """One update's loss, whether its gradients are finite, the naive loss, and the largest gradient difference."""
    checkpoint, sequences, *_ = update
    loss, gradients = one_update(*update)
    expected_loss, expected = naive_update(checkpoint, sequences)
    finite = all(bool(gradient.isfinite().all()) for gradient in gradients.values())
    return loss, finite, expected_loss, largest_difference(gradients, expected)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_an_updates_loss_and_gradients_are_finite_and_correct(qwen2, one_gpu_process, tmp_path, lengths, packed):
    sequences = random_sequences([max(n, 2) for n in lengths])
    config = load_config(
        SftConfig,
        "sft",
        [
            f"base_model={qwen2}",
            "report_to=none",
            "batch_size_per_device=4",
            "max_grad_norm=0",
            f"max_tokens_per_pass={max(sum(lengths) // 2 + 64, max(lengths))}",
        ],
    )
    update = (qwen2, sequences, tmp_path, config, packed)
    loss, finite, expected_loss, difference = one_gpu_process.submit(update_and_differences, *update).result()
    assert math.isfinite(loss) and finite
    assert loss == pytest.approx(expected_loss, rel=2e-3)
    assert difference < 0.05


@two_gpus
def test_one_process_that_sees_two_gpus_uses_only_one(qwen2, tmp_path):
    """By default, the Trainer would split batches over both."""
    sequences = random_sequences([40, 50, 60, 70])
    settings = [f"base_model={qwen2}", "report_to=none", "max_grad_norm=0", "max_tokens_per_pass=120"]
    torch.cuda.init()
    torch.cuda.reset_peak_memory_stats(1)
    before = torch.cuda.memory_allocated(1)
    loss, finite, expected_loss, difference = update_and_differences(
        qwen2, sequences, tmp_path, load_config(SftConfig, "sft", settings), True
    )
    assert finite and loss == pytest.approx(expected_loss, rel=2e-3) and difference < 0.05
    assert torch.cuda.max_memory_allocated(1) == before


@pytest.fixture
def sft(qwen2, tmp_path):
    """Knobs for a short training of both stages, without OUTPUT_DIR."""
    draw = random.Random(0)
    for stage in (1, 2):
        path = tmp_path / "data" / f"p_stage{stage}.json"
        records = [
            {
                "id": f"{n}",
                "x": f"x = {n}",
                "y_init": "A " + "1 " * draw.randrange(200),
                "p_r": PHRASES.wrong,
                "y_revised": "A " + "2 " * draw.randrange(200),
            }
            for n in range(40)
        ]
        write_json(path, records)
        write_json(metadata_path(path), {"identity": {"control_phrases": PHRASES.as_dict(), "mode": "math"}})
    return {
        "BASE_MODEL": qwen2,
        "TRAIN_DATA_DIR": tmp_path / "data",
        "DATA_PREFIX": "p",
        "REPORT_TO": "none",
        "LR_STAGE1": 1e-4,
        "LR_STAGE2": 1e-4,
        "EPOCHS_STAGE1": 1,
        "EPOCHS_STAGE2": 1,
        "TUPLES_PER_UPDATE": 8,
        "MAX_TOKENS_PER_PASS": 600,
        "SAVE_STEPS": 2,
    }


def losses(output: Path) -> list[float]:
    logs = [read_json(output / stage / "training_log.json") for stage in ("stage1", "stage2")]
    return [entry["loss"] for log in logs for entry in log if "loss" in entry]


def test_one_gpu_trains_both_stages_and_continues_after_a_kill(sft, tmp_path):
    uninterrupted = run_script("sft", sft | {"NUM_PROCESSES": 1, "OUTPUT_DIR": tmp_path / "uninterrupted"})
    assert uninterrupted.code == 0, uninterrupted
    output = tmp_path / "interrupted"
    config = sft | {"NUM_PROCESSES": 1, "OUTPUT_DIR": output}
    interrupt_script("sft", config, 9, lambda: (output / "stage1.work" / "checkpoint-2" / "complete").exists())
    again = run_script("sft", config)
    assert again.code == 0 and "continuing from" in again.out, again
    assert losses(output) == pytest.approx(losses(tmp_path / "uninterrupted"), rel=1e-2)


@two_gpus
def test_two_gpus_train_like_one_and_each_continues_the_others_run(sft, tmp_path):
    one = run_script("sft", sft | {"NUM_PROCESSES": 1, "OUTPUT_DIR": tmp_path / "one"})
    two = run_script("sft", sft | {"NUM_PROCESSES": 2, "OUTPUT_DIR": tmp_path / "two"})
    assert one.code == 0 and two.code == 0, (one, two)
    assert "on 2 processes (FSDP2)" in two.out and "one of 2 visible GPUs" not in two.out
    assert "on 1 process\n" in one.out and "training with one process on GPU" in one.out
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-2)
    for begins, continues in ((2, 1), (1, 2)):
        output = tmp_path / f"{begins}{continues}"
        config = sft | {"OUTPUT_DIR": output}
        mark = output / "stage1.work" / "checkpoint-2" / "complete"
        interrupt_script("sft", config | {"NUM_PROCESSES": begins}, 9, mark.exists)
        again = run_script("sft", config | {"NUM_PROCESSES": continues})
        assert again.code == 0 and "continuing from" in again.out, again
        assert losses(output) == pytest.approx(losses(tmp_path / "one"), rel=1e-2)
