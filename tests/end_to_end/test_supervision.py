"""SFT through its entry point: the ids the model receives and the positions that carry loss."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from srt.collect.split import metadata_path, stage_record
from srt.common.files import read_json
from srt.contract.phrases import PHRASE_SETS
from srt.contract.records import pack_ids
from srt.sft.trainer import PackedSFTTrainer

PROBLEM = "x = 4 [A] + 5"
SUFFIX = "Answer in a box."


@pytest.fixture
def tokenizer(answering_model):
    return AutoTokenizer.from_pretrained(answering_model)


def example(tokenizer, y_init: str, ended: bool, r: int, y_revised: str) -> dict:
    eot = [tokenizer.eos_token_id]
    return {
        "x": PROBLEM,
        "y_init": y_init,
        "y_init_ids": pack_ids(tokenizer.encode(y_init) + (eot if ended else [])),
        "p_r": PHRASE_SETS["qwen"].text(r),
        "y_revised": y_revised,
        "y_revised_ids": pack_ids(tokenizer.encode(y_revised) + eot),
    }


def write_stages(folder, tokenizer, stage1: list[dict], stage2: list[dict]) -> None:
    from srt.contract.provenance import tokenizer_fingerprint

    identity = {
        "control_phrases": PHRASE_SETS["qwen"].as_dict(),
        "prompt": {"system_prompt": None, "prompt_suffix": SUFFIX, "chat_template_kwargs": {}},
        "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer),
    }
    for stage, records in ((1, stage1), (2, stage2)):
        path = folder / f"one_stage{stage}.json"
        path.write_text(json.dumps([stage_record(record, stage) for record in records]))
        metadata_path(path).write_text(json.dumps({"identity": identity}))


def test_stage_1_trains_on_everything_after_the_prompt_and_stage_2_on_the_revision(
    answering_model, tokenizer, call, tmp_path, monkeypatch
):
    tuples = [
        example(tokenizer, "A 4 + 5 = 8\n\\boxed{8}", True, 0, "A 4 + 5 = 9\n\\boxed{9}"),
        example(tokenizer, "A 4 + 5 = 9\nB", False, 0, "\\boxed{9}"),  # truncated, and shorter
    ]
    write_stages(tmp_path, tokenizer, tuples, tuples[:1])
    batches = []
    real = PackedSFTTrainer.compute_loss

    def record_batch(self, model, inputs, *others, **options):
        batches.append((inputs["input_ids"].clone(), inputs["labels"].clone()))
        return real(self, model, inputs, *others, **options)

    monkeypatch.setattr(PackedSFTTrainer, "compute_loss", record_batch)
    config = {
        "BASE_MODEL": answering_model,
        "DATA_PREFIX": "one",
        "TRAIN_DATA_DIR": tmp_path,
        "OUTPUT_DIR": tmp_path / "srt",
        "EPOCHS_STAGE1": 1,
        "EPOCHS_STAGE2": 1,
        "BATCH_SIZE_PER_DEVICE": 2,
        "GRADIENT_ACCUMULATION": 1,
        "GRADIENT_CHECKPOINTING": 0,
        "REPORT_TO": "none",
        "LR_STAGE1": 1e-3,
    }
    outcome = call("sft", config)
    assert outcome.code == 0, outcome

    # By hand, from the token layout's table.
    user = [{"role": "user", "content": f"{PROBLEM}\n\n{SUFFIX}"}]
    chat = tokenizer.apply_chat_template(user, add_generation_prompt=True, return_dict=False)
    cue = tokenizer.encode(f"\n\n{PHRASE_SETS['qwen'].wrong}\n\n")
    eot = tokenizer.eos_token_id

    def sequence(record: dict, stage: int) -> tuple[list[int], list[int]]:
        y_init, y_revised = tokenizer.encode(record["y_init"]), tokenizer.encode(record["y_revised"])
        ids = [*chat, *y_init, *cue, *y_revised, eot]
        unsupervised = len(chat) if stage == 1 else len(chat) + len(y_init) + len(cue)
        return ids, [-100] * unsupervised + ids[unsupervised:]

    assert len(batches) == 2
    (ids, labels), (ids2, labels2) = batches
    width = max(len(sequence(record, 1)[0]) for record in tuples)
    actual = sorted(zip(ids.tolist(), labels.tolist(), strict=True))
    expected = []
    for record in tuples:
        sequence_ids, sequence_labels = sequence(record, 1)
        padding = width - len(sequence_ids)
        expected.append((sequence_ids + [tokenizer.pad_token_id] * padding, sequence_labels + [-100] * padding))
    assert actual == sorted(expected)
    assert (ids2.tolist(), labels2.tolist()) == ([sequence(tuples[0], 2)[0]], [sequence(tuples[0], 2)[1]])

    # The logged loss is the mean over the supervised tokens of the batch.
    model = AutoModelForCausalLM.from_pretrained(answering_model, dtype=torch.float32)
    nats = []
    for record in tuples:
        sequence_ids, sequence_labels = sequence(record, 1)
        logprobs = model(input_ids=torch.tensor([sequence_ids])).logits[0].double().log_softmax(-1)
        nats += [-logprobs[t - 1, token].item() for t, token in enumerate(sequence_labels) if token != -100]
    log = read_json(tmp_path / "srt" / "stage1" / "training_log.json")
    assert log[0]["loss"] == pytest.approx(sum(nats) / len(nats), rel=1e-4)


def test_a_learning_rate_that_changes_nothing_returns_the_base_weights(full_run, call, tmp_path):
    """Loading, training in fp32 and saving in the base model's dtype lose nothing."""
    config = full_run.sft | {"OUTPUT_DIR": tmp_path, "LR_STAGE1": 1e-60, "LR_STAGE2": 1e-60, "REPORT_TO": "none"}
    brief = {"EPOCHS_STAGE1": 0.1, "EPOCHS_STAGE2": 0.1, "WEIGHT_DECAY": 0}
    assert call("sft", config | brief).code == 0
    base, final = (load_file(p / "model.safetensors") for p in (full_run.base, tmp_path / "stage2"))
    assert all(torch.equal(base[name], final[name]) for name in base)
