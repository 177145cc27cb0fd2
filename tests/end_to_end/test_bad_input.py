"""Bad input to the real entry points: one sentence on stderr, exit code 2, no traceback."""

import json
import shutil
from pathlib import Path

import pytest

from srt.contract.phrases import PHRASE_SETS
from srt.contract.provenance import write_metadata
from tests.end_to_end.commands import Knobs, the_error
from tests.end_to_end.toy_task import write_problems

RECORD = {"x": "x = 1", "y_init": "a", "p_r": PHRASE_SETS["qwen"].wrong, "y_revised": "b"}


@pytest.fixture
def problems(tmp_path) -> Path:
    return write_problems(tmp_path / "problems.jsonl", 4)


@pytest.fixture
def good(tiny_checkpoint, problems, tmp_path) -> dict[str, Knobs]:
    """Valid knobs for each entry point; each test spoils one of them, so nothing runs to the end."""
    for stage in (1, 2):
        (tmp_path / f"d_stage{stage}.json").write_text(json.dumps([RECORD]))
    output = {"OUTPUT_DIR": tmp_path / "output"}
    sampling = {"SAMPLER": "transformers", "MAX_TOKENS": 4, "GRADING_WORKERS": 1}
    model = {"MODEL_PATH": tiny_checkpoint, "DATASET": problems}
    data = {"DATA_PREFIX": "d", "TRAIN_DATA_DIR": tmp_path}
    return {
        "collect": model | sampling | output | {"DATA_PREFIX": "d"},
        "prepare": model | data | output,
        "sft": {"BASE_MODEL": tiny_checkpoint} | data | output,
        "distill": {"STUDENT_MODEL": tiny_checkpoint, "TRAIN_DATASET": problems, "VAL_PERIOD": 0}
        | sampling
        | output,
        "evaluate": model | sampling | output,
        "report": {"COLLECTION": tmp_path} | output,
    }


DATA_KNOB = {"collect": "DATASET", "evaluate": "DATASET", "distill": "TRAIN_DATASET"}
MODEL_KNOB = {
    "collect": "MODEL_PATH",
    "evaluate": "MODEL_PATH",
    "distill": "STUDENT_MODEL",
    "sft": "BASE_MODEL",
}

# Data files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry_point", DATA_KNOB)
def test_a_data_file_that_is_missing(call, good, tmp_path, entry_point):
    config = good[entry_point] | {DATA_KNOB[entry_point]: tmp_path / "nowhere.jsonl"}
    assert f"{tmp_path}/nowhere.jsonl: no such data file" in the_error(call(entry_point, config))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", "", ": contains no records"),
        ("empty.json", "", ", line 1: not JSON"),
        ("prose.json", "[{'problem': 'x'}]", ", line 1: not JSON"),
        ("object.json", '{"problem": "x", "answer": "1"}', ": expected a list of records, found dict"),
        ("prose.jsonl", "once upon a time\n", ": 1 of 1 records cannot be used; the first is"),
        ("prose.parquet", "once upon a time\n", ": not readable as parquet"),
        ("no_text.jsonl", '{"answer": "1"}\n', "expected one of problem, question, prompt, found answer"),
        (
            "no_answer.jsonl",
            '{"problem": "x = 1"}\n',
            "no answer: expected a non-empty value in one of answer, solution",
        ),
    ],
)
@pytest.mark.parametrize("entry_point", DATA_KNOB)
def test_a_data_file_that_cannot_be_used(call, good, tmp_path, entry_point, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    error = the_error(call(entry_point, good[entry_point] | {DATA_KNOB[entry_point]: path}))
    assert str(path) in error and message in error


def test_a_data_file_whose_lines_are_mostly_broken_names_the_first_one(call, good, problems):
    with problems.open("a") as file:
        file.write("broken\n" * 5)
    error = the_error(call("collect", good["collect"]))
    assert f"{problems}: 5 of 9 records cannot be used; the first is {problems}, line 5: not JSON" in error


def test_an_empty_range_of_problems(call, good):
    error = the_error(call("collect", good["collect"] | {"START_INDEX": 4}))
    assert "no problem is left between START_INDEX=4 and END_INDEX=None; it has 4" in error


# Models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry_point", MODEL_KNOB)
def test_a_model_path_that_does_not_exist(call, good, tmp_path, entry_point):
    config = good[entry_point] | {MODEL_KNOB[entry_point]: tmp_path / "no-model"}
    assert f"{tmp_path}/no-model: no such checkpoint folder" in the_error(call(entry_point, config))


@pytest.mark.parametrize("entry_point", MODEL_KNOB)
def test_a_model_without_a_chat_template(call, good, tiny_checkpoint, tmp_path, entry_point):
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base-model")
    (base / "chat_template.jinja").unlink()
    error = the_error(call(entry_point, good[entry_point] | {MODEL_KNOB[entry_point]: base}))
    assert f"{base}: its tokenizer has no chat template; use an instruct model" in error


def test_a_checkpoint_with_truncated_weights(call, good, tiny_checkpoint, tmp_path):
    truncated = shutil.copytree(tiny_checkpoint, tmp_path / "truncated")
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    error = the_error(call("collect", good["collect"] | {"MODEL_PATH": truncated}))
    assert f"{truncated}: its model could not be loaded" in error


@pytest.mark.parametrize("entry_point", ["evaluate", "distill"])
def test_a_checkpoint_whose_control_phrases_differ_from_the_knob(
    call, good, tiny_checkpoint, tmp_path, entry_point
):
    trained = shutil.copytree(tiny_checkpoint, tmp_path / "trained")
    write_metadata(trained, {"control_phrases": PHRASE_SETS["olmo"].as_dict()})
    config = good[entry_point] | {MODEL_KNOB[entry_point]: trained, "CONTROL_PHRASES": "qwen"}
    error = the_error(call(entry_point, config))
    assert f"CONTROL_PHRASES=qwen contradicts {trained}, which was made with the set 'olmo'" in error
    assert "Wrong. I need to redo all." in error


@pytest.mark.parametrize("entry_point", ["evaluate", "distill"])
def test_a_checkpoint_whose_prompt_differs_from_the_knob(call, good, tiny_checkpoint, tmp_path, entry_point):
    trained = shutil.copytree(tiny_checkpoint, tmp_path / "trained")
    prompt = {"system_prompt": None, "prompt_suffix": "In a box.", "chat_template_kwargs": {}}
    write_metadata(trained, {"control_phrases": PHRASE_SETS["qwen"].as_dict(), "prompt": prompt})
    config = good[entry_point] | {MODEL_KNOB[entry_point]: trained, "PROMPT_SUFFIX": "Be brief."}
    assert "PROMPT_SUFFIX='Be brief.' contradicts" in the_error(call(entry_point, config))


def test_evaluation_without_a_model(call, good):
    config = {name: value for name, value in good["evaluate"].items() if name != "MODEL_PATH"}
    assert "MODEL_PATH is not set: it names the checkpoint to evaluate" in the_error(call("evaluate", config))


# Knobs --------------------------------------------------------------------------------------------------------

WRONG_TYPES = {
    "collect": ("BATCH_SIZE", "many", "expected a whole number (problems in flight"),
    "prepare": ("STAGE1_SIZE", "1.5", "expected a whole number (tuples for SFT stage 1 (generation))"),
    "sft": ("LR_STAGE1", "small", "expected a number (peak learning rate of stage 1)"),
    "distill": ("LR", "small", "expected a number (peak learning rate)"),
    "evaluate": (
        "REVISE",
        "perhaps",
        "expected one of oracle, always, none, 1, true, 0, false (one revision of every",
    ),
    "report": ("EXAMPLES", "some", "expected a whole number"),
}
MISSPELLED = {
    "collect": ("bach_size", "batch_size"),
    "prepare": ("stage1_sise", "stage1_size"),
    "sft": ("epochs_stage_1", "epochs_stage1"),
    "distill": ("TEACHER_SYNC_STEP", "TEACHER_SYNC_STEPS"),
    "evaluate": ("num_sample", "num_samples"),
    "report": ("distilation", "distillation"),
}


@pytest.mark.parametrize("entry_point", WRONG_TYPES)
def test_a_knob_of_the_wrong_type(call, good, entry_point):
    name, value, message = WRONG_TYPES[entry_point]
    assert f"error: {name}={value}: {message}" in the_error(call(entry_point, good[entry_point] | {name: value}))


@pytest.mark.parametrize("entry_point", MISSPELLED)
def test_an_unknown_knob_gets_a_suggestion(call, good, entry_point):
    wrong, right = MISSPELLED[entry_point]
    error = the_error(call(entry_point, good[entry_point], f"{wrong}=3"))
    assert f"unknown knob '{wrong}=3'; did you mean {right}?" in error


@pytest.mark.parametrize("entry_point", ["collect", "distill", "evaluate"])
def test_code_mode_without_a_sandbox_says_what_to_install(call, good, entry_point, set_path):
    set_path("/nowhere")
    error = the_error(call(entry_point, good[entry_point] | {"MODE": "code"}))
    assert error.startswith("error: MODE=code: bubblewrap is not installed; install bubblewrap")
    assert "apt-get install bubblewrap" in error and "CODE_SANDBOX=rlimits" in error


def test_nemo_rl_without_a_gpu_or_its_environment_names_the_local_engine(call, good):
    error = the_error(call("distill", good["distill"] | {"ENGINE": "nemo-rl"}))
    assert error.startswith("error: ENGINE=nemo-rl: ") and "ENGINE=local" in error


def test_a_global_batch_size_that_does_not_divide_the_step(call, good):
    config = good["distill"] | {"NUM_PROMPTS_PER_STEP": 8, "TRAIN_GLOBAL_BATCH_SIZE": 3}
    assert "TRAIN_GLOBAL_BATCH_SIZE=3 does not divide NUM_PROMPTS_PER_STEP=8" in the_error(call("distill", config))


def test_an_unknown_set_of_control_phrases(call, good):
    error = the_error(call("collect", good["collect"] | {"CONTROL_PHRASES": "quen"}))
    assert "CONTROL_PHRASES=quen is neither a named set (qwen, olmo, paper) nor a .yaml file" in error


# Stage files and tuples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected a list with at least one tuple; run run_srt_data.sh again"),
        ('{"x": 1}', "expected a list with at least one tuple"),
        ("[{]", "not readable as JSON"),
        ('[{"x": "x", "y_init": "a", "p_r": "p"}]', "record 1: missing y_revised"),
        (None, "no such stage file; run run_srt_data.sh first, or set DATA_PREFIX"),
    ],
)
def test_a_stage_file_that_cannot_be_used(call, good, tmp_path, stage, content, message):
    path = tmp_path / f"d_stage{stage}.json"
    path.unlink() if content is None else path.write_text(content)
    error = the_error(call("sft", good["sft"]))
    assert str(path) in error and message in error


def test_stage_files_whose_control_phrases_differ_from_the_knob(call, good, tmp_path):
    metadata = {"identity": {"control_phrases": PHRASE_SETS["qwen"].as_dict()}}
    (tmp_path / "d_stage1.run.json").write_text(json.dumps(metadata))
    error = the_error(call("sft", good["sft"] | {"CONTROL_PHRASES": "olmo"}))
    assert "CONTROL_PHRASES=olmo contradicts" in error and "d_stage1.run.json" in error


def test_tuples_that_are_all_too_long(call, good):
    error = the_error(call("sft", good["sft"] | {"MAX_LENGTH": 5}))
    assert "stage 1: all 1 tuples are longer than MAX_LENGTH=5" in error
    assert not good["sft"]["OUTPUT_DIR"].exists()  # so a rerun with a larger MAX_LENGTH may use it


def test_splitting_before_collecting(call, good, tmp_path):
    error = the_error(call("prepare", good["prepare"]))
    assert f"{tmp_path}/output/d_revision.json: no such file" in error


@pytest.mark.parametrize("count", [0, 1])
def test_with_fewer_than_two_tuples_the_error_says_what_to_change(call, good, tmp_path, count):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "d_revision.json").write_text(json.dumps([RECORD] * count))
    (tmp_path / "output" / "run.json").write_text('{"identity": {}}')
    error = the_error(call("prepare", good["prepare"]))
    assert f"D_revision has {count} tuple" in error
    assert "use more problems, NUM_RESPONSES or NUM_REVISIONS, or REVISE_CORRECT=1" in error


def test_a_report_without_any_input(call, good, tmp_path):
    error = the_error(call("report", {"OUTPUT_DIR": tmp_path / "output"}))
    assert "nothing to report" in error


# Output -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry_point", ["collect", "sft", "distill", "evaluate"])
def test_an_output_folder_below_a_file(call, good, tmp_path, entry_point):
    (tmp_path / "file").write_text("")
    config = good[entry_point] | {"OUTPUT_DIR": tmp_path / "file" / "output"}
    error = the_error(call(entry_point, config))
    assert f"{tmp_path}/file/output: cannot be written (" in error
    assert "free space or change OUTPUT_DIR" in error
