"""What is read and checked before an engine starts."""

import json
import shutil

import pytest

from opsd.config import DistillConfig
from opsd.distill import prepare
from srt.common.errors import UserError
from srt.common.files import read_json
from srt.config import load_config
from srt.contract.phrases import PHRASE_SETS
from srt.contract.provenance import write_metadata
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


@pytest.fixture
def with_mode(tmp_path, tiny_checkpoint):
    """with_mode(name, **metadata) -> a copy of the tiny checkpoint that stores `metadata`."""

    def copy(name, **metadata):
        folder = shutil.copytree(tiny_checkpoint, tmp_path / name)
        write_metadata(folder, metadata)
        return folder

    return copy


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"problem": "x = 1", "answer": "1"}) + "\n")
    return [f"train_dataset={path}", "val_period=0"]


def test_a_student_of_the_other_mode_is_refused(prepared, with_mode, problems):
    student = with_mode("student", mode="code")
    with pytest.raises(UserError, match="MODE=math contradicts .*student"):
        prepared(f"student_model={student}", *problems)


def test_a_teacher_with_other_phrases_is_refused(prepared, with_mode, problems):
    student = with_mode("student", mode="math", control_phrases=PHRASE_SETS["olmo"].as_dict())
    teacher = with_mode("teacher", mode="math", control_phrases=PHRASE_SETS["qwen"].as_dict())
    knobs = [f"student_model={student}", *problems]
    with pytest.raises(UserError, match="control_phrases is 'qwen', the student's 'olmo'"):
        prepared(f"teacher_model={teacher}", *knobs)
    assert prepared(f"teacher_model={with_mode('alike', mode='math')}", *knobs).layout.phrases.name == "olmo"


def test_the_revisions_that_are_known_are_recorded(prepared, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    serve(monkeypatch, tmp_path / "hub", commit=commit)
    run = prepared("train_dataset=HuggingFaceH4/aime_2024")
    assert run.claim_folder()
    assert read_json(tmp_path / "out" / "run.json")["revisions"] == {"HuggingFaceH4/aime_2024": commit}
