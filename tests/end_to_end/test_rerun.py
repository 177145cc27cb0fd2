"""After a complete run: a rerun repeats nothing; changed settings and unwritable folders are refused."""

import shutil
from pathlib import Path

import pytest

from tests.end_to_end.commands import Knobs, the_error
from tests.end_to_end.conftest import Run

OUTPUTS = {"collect": "collection", "sft": "srt", "distill": "sd_zero", "evaluate": "evaluation/sd_zero"}


def config_of(run: Run, entry_point: str) -> Knobs:
    by_name = {
        "collect": run.collection,
        "sft": run.sft,
        "distill": run.distillation,
        "evaluate": run.evaluation,
    }
    return by_name[entry_point]


@pytest.fixture
def complete(full_run, tmp_path):
    """complete(entry_point) -> knobs and folder of a copy of a complete run."""

    def copy(entry_point: str) -> tuple[Knobs, Path]:
        output = tmp_path / "complete"
        shutil.copytree(full_run.folder / OUTPUTS[entry_point], output)  # keeps modification times
        return config_of(full_run, entry_point) | {"OUTPUT_DIR": output}, output

    return copy


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and modification time of every file except run.json, whose timings may be updated."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.json"]
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


@pytest.fixture
def no_engine(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("an engine was started although every sample is in the log")

    monkeypatch.setattr("srt.sampling.from_config.open_sampler", refuse)


@pytest.mark.parametrize(
    ("entry_point", "result"), [("collect", "d_revision.json"), ("evaluate", "evaluation.json")]
)
def test_rerunning_a_complete_collection_or_evaluation_samples_nothing(
    complete, call, no_engine, entry_point, result
):
    config, output = complete(entry_point)
    log, before = (output / "attempts.jsonl").read_bytes(), (output / result).read_bytes()
    again = call(entry_point, config)
    assert again.code == 0, again
    assert "continuing: " in again.out
    assert (output / "attempts.jsonl").read_bytes() == log
    assert (output / result).read_bytes() == before


def test_rerunning_a_complete_sft_says_so_and_changes_nothing(complete, call):
    config, output = complete("sft")
    before = stamps(output)
    again = call("sft", config)
    assert again.code == 0, again
    assert "stage 1 is complete: " in again.out and "stage 2 is complete: " in again.out
    assert stamps(output) == before


def test_rerunning_a_complete_distillation_says_so_and_changes_nothing(complete, call):
    """An evaluation in progress would take a rewritten student for another model."""
    config, output = complete("distill")
    before = stamps(output)
    again = call("distill", config)
    assert again.code == 0, again
    assert "self-distillation is complete: " in again.out
    assert stamps(output) == before


def test_splitting_twice_gives_the_same_stage_files(full_run, call, tmp_path):
    for attempt in range(2):
        assert call("prepare", full_run.collection | {"TRAIN_DATA_DIR": tmp_path}).code == 0, attempt
        for stage in (1, 2):
            name = f"little_stage{stage}.json"
            assert (tmp_path / name).read_bytes() == (full_run.folder / "train_data" / name).read_bytes()


@pytest.mark.parametrize(
    ("entry_point", "knob", "value", "message"),
    [
        ("collect", "TEMPERATURE", 0.5, "temperature was 1.0 and is now 0.5"),
        ("collect", "NUM_REVISIONS", 1, "num_revisions was 2 and is now 1"),
        ("collect", "CONTROL_PHRASES", "olmo", "control_phrases was {'name': 'qwen'"),
        ("sft", "LR_STAGE2", 1e-4, "lr_stage2 was 0.001 and is now 0.0001"),
        ("sft", "BATCH_SIZE_PER_DEVICE", 2, "batch_size_per_device was 4 and is now 2"),
        ("distill", "KL_TYPE", "forward", "kl_type was 'reverse' and is now 'forward'"),
        ("distill", "MAX_NUM_STEPS", 12, "max_num_steps was 10 and is now 12"),
        ("evaluate", "TOP_P", 0.5, "top_p was 1.0 and is now 0.5"),
        ("evaluate", "SEED", 3, "seed was 0 and is now 3"),
    ],
)
def test_a_changed_setting_is_refused_by_name(complete, call, entry_point, knob, value, message):
    config, output = complete(entry_point)
    before = stamps(output)
    error = the_error(call(entry_point, config | {knob: value}))
    assert f"{output} holds a run with other settings: {message}" in error
    assert "Use another OUTPUT_DIR, or delete this one to start over" in error
    assert stamps(output) == before


def test_changed_problems_are_refused(complete, call, full_run, tmp_path):
    config, _ = complete("collect")
    other = tmp_path / "problems.jsonl"
    other.write_text(full_run.problems.read_text().replace('"answer": "7"', '"answer": "8"'))
    assert "dataset_fingerprint was" in the_error(call("collect", config | {"DATASET": other}))


def test_changed_training_data_is_refused(complete, call, full_run, tmp_path):
    config, _ = complete("sft")
    data = tmp_path / "train_data"
    shutil.copytree(full_run.folder / "train_data", data)
    stage = data / "little_stage2.json"
    stage.write_text(stage.read_text().replace("boxed{3}", "boxed{7}"))
    assert "data_fingerprints was" in the_error(call("sft", config | {"TRAIN_DATA_DIR": data}))


@pytest.mark.parametrize("knob", [("SAVE_PERIOD", 5), ("LOG_SAMPLES_PERIOD", 3), ("TOKENS_PER_MICRO_BATCH", 100)])
def test_settings_that_do_not_change_the_result_may_change(complete, call, knob):
    config, _ = complete("distill")
    assert call("distill", config | dict([knob])).code == 0


def test_a_report_folder_below_a_file(call, full_run, tmp_path):
    (tmp_path / "file").write_text("")
    config = full_run.report | {"OUTPUT_DIR": tmp_path / "file" / "output"}
    assert f"{tmp_path}/file/output/summary.json: cannot be written (" in the_error(call("report", config))


def test_stage_files_below_a_file(call, full_run, tmp_path):
    (tmp_path / "file").write_text("")
    config = full_run.collection | {"TRAIN_DATA_DIR": tmp_path / "file" / "train_data"}
    error = the_error(call("prepare", config))
    assert f"{tmp_path}/file/train_data/little_stage" in error and "change TRAIN_DATA_DIR" in error
