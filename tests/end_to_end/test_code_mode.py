"""MODE=code from problems to training data, evaluation and distillation, with scripted responses."""

import json
import random

import pytest

from opsd.distill import distill
from srt.collect.run import collect
from srt.collect.split import prepare
from srt.common.files import read_json, read_jsonl
from srt.common.models import load_tokenizer
from srt.evaluation.run import evaluate
from srt.sampling.base import Sample
from srt.verifiers.code.languages import BY_FENCE, find_toolchain

pytestmark = pytest.mark.bwrap

PROBLEMS = [
    {"id": "double", "prompt": "Print twice n.", "time_limit": 1, "examples": [{"input": "3\n", "output": "6\n"}]},
    {
        "task_id": "add/0",
        "prompt": 'def add(a, b):\n    """a + b"""',
        "entry_point": "add",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3",
    },
]
RESPONSES = [
    "```python\nprint(2 * int(input()))\n```",
    "```python\ndef add(a, b):\n    return a + b\n```",
    "```python\nprint(7)\n```",
    "```go\npackage main\n```",
    "I do not know.",
]


class ScriptedSampler:
    """Answers with one of RESPONSES, drawn with the request's seed."""

    def __init__(self, tokenizer):
        self.tokenizer, self.waiting = tokenizer, []

    pending = property(lambda self: len(self.waiting))

    def submit(self, key, request):
        response = random.Random(request.seed).choice(RESPONSES)
        ids = [*self.tokenizer.encode(response, add_special_tokens=False), self.tokenizer.eos_token_id]
        self.waiting.append((key, Sample(ids, "stop", None)))

    def poll(self):
        finished, self.waiting = self.waiting, []
        return finished

    def close(self):
        pass


@pytest.fixture
def config(tmp_path, tiny_checkpoint, monkeypatch):
    sampler = ScriptedSampler(load_tokenizer(str(tiny_checkpoint)))
    monkeypatch.setattr("srt.sampling.from_config.open_sampler", lambda *args, **kwargs: sampler)
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))
    paths = [f"dataset={tmp_path / 'problems.jsonl'}", f"output_dir={tmp_path / 'out'}"]
    sampling = ["sampler=transformers", "max_tokens=100", "grading_workers=2"]
    return ["mode=code", f"model_path={tiny_checkpoint}", *paths, *sampling]


def test_collection_and_training_data(config, tmp_path, tiny_checkpoint):
    config += ["num_responses=12", "num_revisions=2", "target_revision_samples=6", "clean=0"]
    collect(config)
    attempts = read_jsonl(tmp_path / "out" / "attempts.jsonl")
    reasons = {attempt.get("y_init_reason", attempt.get("y_revised_reason")) for attempt in attempts}
    assert {"passed 1 of 1 tests", "no complete code block in a known language"} <= reasons
    assert any(reason.startswith("test 1 of 1: wrong answer: ") for reason in reasons)
    tuples = read_json(tmp_path / "out" / "d_revision.json")
    assert len(tuples) == 6
    for kept in tuples:
        assert kept["y_init_correct"] is False and kept["y_revised_correct"] is True
        assert kept["y_revised"] == RESPONSES[0 if kept["id"] == "double" else 1]
    if find_toolchain(BY_FENCE["go"]) is None:
        kinds = {line["kind"] for line in read_jsonl(tmp_path / "out" / "set_aside.jsonl")}
        assert kinds == {"no compiler for Go"}
    prepare([*config, f"train_data_dir={tmp_path}", "stage1_size=4", "stage2_size=2"])
    prefix = f"code_{tiny_checkpoint.name}_srt"
    assert [len(read_json(tmp_path / f"{prefix}_stage{stage}.json")) for stage in (1, 2)] == [4, 2]


def test_evaluation(config, tmp_path):
    evaluate([*config, "num_samples=8"])
    result = read_json(tmp_path / "out" / "evaluation.json")
    assert result["problems"] == 2
    assert 0 < result["avg_at_k"] < 1 and 0 < result["revise_r0"] < 1


def test_distillation(config, tmp_path, tiny_checkpoint):
    """An untrained model writes no programs, so every reward is 0, which is enough to show that the judge runs."""
    sizes = ["num_prompts_per_step=2", "train_global_batch_size=2", "max_num_steps=1", "val_period=0"]
    distill(
        [
            "mode=code",
            "engine=local",
            "sampler=transformers",
            f"student_model={tiny_checkpoint}",
            *sizes,
            f"train_dataset={tmp_path / 'problems.jsonl'}",
            "max_total_sequence_length=200",
            "report_to=none",
            f"output_dir={tmp_path / 'student'}",
        ]
    )
    metrics = read_jsonl(tmp_path / "student" / "metrics.jsonl")
    assert [line["reward"] for line in metrics] == [0]
    assert not read_jsonl(tmp_path / "student" / "set_aside.jsonl")
    assert read_json(tmp_path / "student" / "student" / "sd_zero.json")["mode"] == "code"
