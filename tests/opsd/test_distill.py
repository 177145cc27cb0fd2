"""What is read and checked before an engine starts."""

import json

import pytest

from opsd.config import DistillConfig
from opsd.distill import prepare
from srt.config import load_config
from tests.srt.helpers.hub import humaneval, serve


@pytest.fixture
def prepared(tiny_checkpoint, tmp_path, monkeypatch):
    """prepared(*overrides) -> the Run that `distill` would train."""
    monkeypatch.setattr("opsd.distill.check_verifier", lambda config: None)

    def prepared(*overrides):
        fixed = [f"student_model={tiny_checkpoint}", f"output_dir={tmp_path / 'out'}", "engine=local"]
        return prepare(load_config(DistillConfig, "distill", [*fixed, *overrides]))

    return prepared


@pytest.mark.parametrize(
    ("mode", "asked_for", "count"),
    [
        ("math", ("HuggingFaceH4/aime_2024", None, "train"), 1),
        ("code", ("openai/openai_humaneval", None, "test"), 3),
    ],
)
def test_the_default_validation_set_follows_the_mode(prepared, tmp_path, monkeypatch, mode, asked_for, count):
    asked = serve(monkeypatch, tmp_path / "hub")
    train = tmp_path / "train.jsonl"
    records = humaneval() if mode == "code" else [{"problem": "x = 1", "answer": "1"}]
    train.write_text("".join(json.dumps(record) + "\n" for record in records))
    run = prepared(f"mode={mode}", f"train_dataset={train}")
    assert asked == [asked_for]
    assert len(run.validation_set.problems) == count
    assert (run.config.val_dataset, run.config.val_split) == (asked_for[0], asked_for[2])
