"""A damaged file gives a page that leaves it out, or one sentence that names it: never a traceback."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from srt.common.errors import UserError
from srt.report.run import report
from tests.srt.helpers.report_logs import (
    collection_attempts,
    evaluation_attempts,
    write_attempts,
    write_distillation_logs,
)
from tests.srt.helpers.report_runs import write_collection, write_distillation, write_evaluation, write_sft

VALUES = (None, [], {}, "text", -1, 1e308, float("nan"), True, "", [1, "a"], {"a": 1}, 10**400)
FILES = (
    "collection/run.json",
    "collection/d_revision.json",
    "collection/attempts.jsonl",
    "srt/run.json",
    "srt/stage2/training_log.json",
    "distillation/run.json",
    "distillation/metrics.jsonl",
    "distillation/validation.jsonl",
    "distillation/samples.jsonl",
    "distillation/warnings.jsonl",
    "distillation/teacher_sync.jsonl",
    "evaluation/base/evaluation.json",
    "evaluation/base/run.json",
    "evaluation/base/attempts.jsonl",
)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_evaluation(folder / "evaluation" / "base", correct=2)
    write_attempts(folder / "evaluation" / "base", evaluation_attempts(2))
    write_collection(folder / "collection")
    write_attempts(folder / "collection", collection_attempts(10))
    write_sft(folder / "srt")
    write_distillation(folder / "distillation", steps=4)
    write_distillation_logs(folder / "distillation")
    return folder


def changed(value: Any, rng: random.Random) -> Any:
    """The value with one of its parts, or all of it, removed or replaced by something of another type."""
    inside = rng.random() < 0.85
    if isinstance(value, dict) and value and inside:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {name: item for name, item in value.items() if name != key}
        return value | {key: changed(value[key], rng)}
    if isinstance(value, list) and value and inside:
        index = rng.randrange(len(value))
        return [*value[:index], changed(value[index], rng), *value[index + 1 :]]
    return rng.choice(VALUES)


def damage(path: Path, kind: str, rng: random.Random) -> None:
    data = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[: rng.randrange(1, len(data))])
    elif kind == "binary":
        path.write_bytes(bytes(rng.randrange(256) for _ in range(300)))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "null":
        path.write_bytes(b"null\n")
    elif kind == "nested":
        path.write_bytes(b"[" * 100_000 + b"\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(changed(json.loads(data), rng)))
    else:
        lines = data.decode().splitlines()
        index = rng.randrange(len(lines))
        lines[index] = json.dumps(changed(json.loads(lines[index]), rng))
        path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_never_ends_in_a_traceback(good, tmp_path, capsys, name):
    rng = random.Random(name)
    pages = 0
    for kind in ("truncated", "binary", "empty", "null", "nested", *["value"] * 12):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(good, run)
        if not name.startswith("evaluation"):
            shutil.rmtree(run / "evaluation")  # whose plots take the longest
        damage(run / name, kind, rng)
        try:
            report([str(run), f"output_dir={tmp_path / 'out'}"])
        except UserError as error:
            assert "\n" not in str(error) and str(tmp_path) in str(error)
        else:
            pages += "</html>" in (tmp_path / "out" / "report.html").read_text()
    assert pages >= 4  # most damage costs no more than what was damaged


def test_a_log_with_damaged_lines_is_shown_without_them(good, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(good / "distillation", run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('null\n{"step": "x"}\nnot json\n')
    report([str(run), f"output_dir={tmp_path / 'out'}"])
    expected = f"{run / 'metrics.jsonl'}: 3 lines are damaged and left out (the first: line 5)"
    assert expected in capsys.readouterr().out
    assert expected in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("value", VALUES)
def test_a_damaged_number_of_tokens_costs_its_own_point(good, tmp_path, value):
    run = tmp_path / "run"
    shutil.copytree(good / "distillation", run)
    with (run / "metrics.jsonl").open("a") as file:
        for step, name in enumerate(("trained_tokens", "response_tokens", "rollouts"), start=10):
            line = {
                "step": step,
                "seconds": {"update": 0.1},
                "trained_tokens": 5,
                "response_tokens": 5,
                "rollouts": 1,
            }
            file.write(json.dumps(line | {name: value}) + "\n")
    report([str(run), f"output_dir={tmp_path / 'out'}"])
    assert "Throughput" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("value", VALUES)
def test_so_does_a_damaged_number_of_updates(good, tmp_path, value):
    run = tmp_path / "run"
    shutil.copytree(good / "srt", run)
    log = run / "stage1" / "training_log.json"
    log.write_text(json.dumps([*json.loads(log.read_text()), {"step": value}]))
    report([str(run), f"output_dir={tmp_path / 'out'}"])
    assert "Phase 1: supervised fine-tuning" in (tmp_path / "out" / "report.html").read_text()
