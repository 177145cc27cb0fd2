"""REPORT_TO: metrics and sample tables, as each service stores them; nothing leaves this machine."""

import json
import re
import sqlite3
from pathlib import Path

import pytest

from opsd.reporters import COLUMNS, open_reporter, sample_row
from srt.common.errors import UserError
from srt.common.files import read_jsonl
from tests.opsd.helpers.problems import PROBLEMS
from tests.opsd.helpers.runs import train_run

SAMPLE = {"step": 3, "id": "p1", "r": 0, "tokens": ["1 |", " +\n", "2"], "kl": [0.25, 1.5, 0.5]}


def test_a_row_holds_the_response_and_where_the_teacher_disagrees_most():
    row = dict(zip(COLUMNS, sample_row(SAMPLE), strict=True))
    assert row["response"] == "1 | +\n2" and row["mean_kl"] == 0.75
    assert (row["largest_kl"], row["token_of_largest_kl"]) == (1.5, " +\n")


def test_nothing_is_opened_for_none(tmp_path):
    assert open_reporter("none", tmp_path, 0, {}) is None
    assert not list(tmp_path.iterdir())


def test_tensorboard_has_the_table_of_a_run(make_run, grader, coin_checkpoint):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(
        coin_checkpoint,
        PROBLEMS,
        report_to="tensorboard",
        max_num_steps=2,
        max_total_sequence_length=22,
        log_samples_period=1,
    )
    train_run(run, grader)
    board = EventAccumulator(str(run.output_dir / "tensorboard"))
    board.Reload()
    tables = [event.tensor_proto.string_val[0].decode() for event in board.Tensors("samples/text_summary")]
    lines = [line["id"] for line in read_jsonl(run.output_dir / "samples.jsonl") if line["step"] == 0]
    assert len(tables) == 2 and len(tables[0].splitlines()) == 2 + len(lines)
    assert tables[0].startswith("| step | id | r | response |")
    assert [row.split(" | ")[1] for row in tables[0].splitlines()[2:]] == lines
    assert len(board.Scalars("kl")) == 2


def test_a_table_of_tensorboard_keeps_a_response_in_its_cell(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reporter = open_reporter("tensorboard", tmp_path, 0, {})
    reporter.samples(3, [sample_row(SAMPLE)])
    reporter.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    (event,) = board.Tensors("samples/text_summary")
    assert event.tensor_proto.string_val[0].decode().splitlines()[2] == (
        "| 3 | p1 | 0 | 1 \\| +<br>2 | 0.7500 | 1.5000 |  +<br> |"
    )


@pytest.fixture
def wandb(monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: REPORT_TO=wandb was NOT tested")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield wandb
    wandb.teardown()  # it keeps what it has read from the environment


def test_wandb_offline(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for start in (0, 1):  # a second process continues
        reporter = open_reporter("wandb", tmp_path, start, {"lr": 0.5})
        reporter.metrics(start, {"kl": 0.25 + start})
        reporter.samples(start, [sample_row(SAMPLE)])
        reporter.close()
    runs = sorted(tmp_path.rglob("*.wandb"))
    assert len(runs) == 2 and len({path.name for path in runs}) == 1  # the same run, continued
    wandb.teardown()  # its process writes behind ours
    for path, kl in zip(runs, (b"0.25", b"1.25"), strict=True):
        assert re.search(rb"kl.{1,8}" + re.escape(kl), path.read_bytes(), re.DOTALL)
    tables = [json.loads(path.read_text()) for path in tmp_path.rglob("*.table.json")]
    assert tables and all(table["columns"] == list(COLUMNS) for table in tables)
    assert tables[0]["data"] == [sample_row(SAMPLE)]


def test_wandb_without_an_account_is_one_sentence(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv("WANDB_API_KEY", "not a key")
    with pytest.raises(UserError, match=r"REPORT_TO=wandb could not be opened \(.*WANDB_MODE=offline") as error:
        open_reporter("wandb", tmp_path, 0, {})
    assert "\n" not in str(error.value)


def test_trackio_is_local(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio", reason="trackio is not installed: REPORT_TO=trackio was NOT tested")
    folder = Path(trackio.utils.TRACKIO_DIR)  # read when it was imported, perhaps by another test
    for start in (0, 1):
        reporter = open_reporter("trackio", tmp_path / "out", start, {"lr": 0.5})
        reporter.metrics(start, {"kl": 0.25 + start})
        reporter.samples(start, [sample_row(SAMPLE)])
        reporter.close()
    (database,) = folder.glob("sd-zero*.db")
    rows = (
        sqlite3.connect(database).execute("select run_name, step, metrics from metrics order by step").fetchall()
    )
    assert len({name for name, _, _ in rows}) == 1
    logged = [(step, json.loads(metrics)) for _, step, metrics in rows]
    assert [(step, line["kl"]) for step, line in logged if "kl" in line] == [(0, 0.25), (1, 1.25)]
    assert [step for step, line in logged if "samples" in line] == [0, 1]
