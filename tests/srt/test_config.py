"""Configuration: precedence, messages, and the agreement of every configs/*.yaml with its schema."""

import os
import re
from dataclasses import fields

import pytest

from opsd.config import DistillConfig, RunConfig
from opsd.localize.config import LocalizeConfig
from srt.collect.run import CollectConfig
from srt.common.errors import UserError
from srt.config import CONFIGS, KnobLine, load_config, read_knob_table
from srt.contract.paths import DEFAULT_DATASETS, data_prefix
from srt.evaluation.config import EvaluateConfig
from srt.knob_help import print_help
from srt.report.run import ReportConfig
from srt.sft.config import SftConfig

SCHEMAS = {
    "srt_data": CollectConfig,
    "sft": SftConfig,
    "distill": DistillConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
    "localize": LocalizeConfig,
}
every_config = pytest.mark.parametrize("name", SCHEMAS)


def knob_lines(name) -> list[KnobLine]:
    return [line for line in read_knob_table(CONFIGS / f"{name}.yaml") if isinstance(line, KnobLine)]


def load(name, *argv):
    return load_config(SCHEMAS[name], name, list(argv))


def data_knobs(*argv):
    return load("srt_data", *argv)


# YAML and schema ----------------------------------------------------------------------------------------


def test_every_config_is_tested_here():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(SCHEMAS)


@every_config
def test_keys_are_the_fields_of_the_schema_each_with_a_variable_and_a_help_text(name):
    lines = knob_lines(name)
    assert sorted(line.key for line in lines) == sorted(field.name for field in fields(SCHEMAS[name]))
    for line in lines:
        assert line.env == line.key.upper()
        assert line.help
    text = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    assert sum(bool(line) and not line.startswith("#") for line in text) == len(lines)  # no line is missed


@every_config
def test_defaults_load_and_pass_their_own_checks(name):
    load(name)


@every_config
def test_help_prints_every_knob_with_its_help_text(name, capsys):
    print_help(SCHEMAS[name], name)
    printed = capsys.readouterr().out
    unfolded = " ".join(printed.split())
    for line in knob_lines(name):
        assert re.search(rf"^  {line.env}=\S+", printed, re.MULTILINE)
        assert " ".join(line.help.split()) in unfolded
    assert "oc.env" not in printed


def example(field, which):
    """The first or second of two different values, as text, that pass the checks of a field."""
    choices, lowest, highest = (field.metadata[name] for name in ("choices", "ge", "le"))
    if choices:
        return choices[-which]
    if "bool" in str(field.type):
        return str(which - 1)
    if "float" in str(field.type):
        low = lowest or 0.0
        return repr(low + which * ((highest or low + 1) - low) / 4)
    return str(int(lowest or 0) + which) if "int" in str(field.type) else f"value {which}"


@every_config
def test_command_line_beats_environment_beats_yaml(name, monkeypatch):
    """For each knob."""
    config = fields(SCHEMAS[name])
    by_key = load(name, *(f"{field.name}={example(field, 1)}" for field in config))
    by_variable = load(name, *(f"{field.name.upper()}={example(field, 2)}" for field in config))
    for field in config:
        monkeypatch.setenv(field.name.upper(), example(field, 2))
    from_environment = load(name)
    over_environment = load(name, *(f"{field.name}={example(field, 1)}" for field in config))
    assert from_environment == by_variable
    assert over_environment == by_key
    assert not [f.name for f in config if getattr(by_key, f.name) == getattr(by_variable, f.name)]


REQUIRED = {
    "srt_data": {
        "mode": "math",
        "model_path": "Qwen/Qwen3-4B-Instruct-2507",
        "target_revision_samples": 6000,
        "stage1_size": 4000,
        "stage2_size": 2000,
        "num_responses": 1,
        "num_revisions": 1,
        "batch_size": 64,
        "temperature": 1.0,
        "top_p": 0.9,
        "max_tokens": 16384,
        "revise_correct": False,
        "sampler": "auto",
        "control_phrases": None,
        "dataset": None,
        "data_prefix": None,
        "output_dir": None,
        "seed": 0,
    },
    "sft": {
        "base_model": "Qwen/Qwen3-4B-Instruct-2507",
        "epochs_stage1": 3,
        "epochs_stage2": 3,
        "lr_stage1": 5e-6,
        "lr_stage2": 5e-6,
        "data_prefix": None,
        "control_phrases": None,
        "output_dir": None,
        "seed": 0,
        "report_to": "tensorboard",
    },
    "distill": {
        "mode": "math",
        "engine": "auto",
        "student_model": None,
        "teacher_model": None,
        "train_dataset": None,
        "val_dataset": None,
        "val_split": None,
        "max_total_sequence_length": 8192,
        "max_teacher_tokens": 32768,
        "num_prompts_per_step": 128,
        "train_global_batch_size": 128,
        "max_num_steps": 1000,
        "max_num_epochs": 5,
        "lr": 5e-6,
        "kl_type": "reverse",
        "mixed_kl_weight": 0.5,
        "topk": 0,
        "teacher_sync": "none",
        "teacher_sync_steps": 0,
        "seed": 0,
        "output_dir": None,
        "report_to": "tensorboard",
    },
}


@pytest.mark.parametrize("name", REQUIRED)
def test_the_defaults_of_the_method(name):
    config = load(name)
    assert {key: getattr(config, key) for key in REQUIRED[name]} == REQUIRED[name]


def test_defaults_that_follow_from_other_knobs(monkeypatch):
    assert DEFAULT_DATASETS == {
        "math": ("open-r1/OpenR1-Math-220k", None),
        "code": ("open-r1/codeforces-cots", "solutions"),
    }
    model = "Qwen/Qwen3-4B-Instruct-2507"
    assert data_prefix(None, "math", model) == "r1_Qwen3-4B-Instruct-2507_srt"
    assert data_prefix(None, "code", f"{model}/") == "code_Qwen3-4B-Instruct-2507_srt"
    assert data_prefix("mine", "math", model) == "mine"
    monkeypatch.setenv("MODEL_PATH", "some/model")
    assert load("sft").base_model == "some/model"


def test_choices_of_the_method():
    choices = {field.name: field.metadata["choices"] for field in fields(DistillConfig)}
    assert choices["kl_type"] == ("reverse", "forward", "mixed", "jsd")
    assert choices["engine"] == ("auto", "local", "nemo-rl")
    choices = {field.name: field.metadata["choices"] for field in fields(CollectConfig)}
    assert choices["sampler"] == ("auto", "vllm", "transformers")


# Values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"), [("0", False), ("1", True), ("true", True), ("False", False), ("yes", True)]
)
def test_switches(monkeypatch, text, value):
    assert data_knobs(f"revise_correct={text}").revise_correct is value
    monkeypatch.setenv("REVISE_CORRECT", text)
    assert data_knobs().revise_correct is value


def test_numbers_in_scientific_notation(monkeypatch):
    monkeypatch.setenv("LR_STAGE1", "2e-5")
    assert load("sft", "lr_stage2=1E-4").lr_stage1 == 2e-5


@pytest.mark.parametrize(
    "text", ["a: b, c # d", "12", "no", "", " two\nlines ", "{x}", "$x = \\boxed{}$", "a=b", "Ünïcödé ∑"]
)
def test_strings_arrive_unchanged(monkeypatch, text):
    assert data_knobs(f"prompt_suffix={text}").prompt_suffix == text
    monkeypatch.setenv("PROMPT_SUFFIX", text)
    assert data_knobs().prompt_suffix == text


def test_null_on_the_command_line_unsets_what_the_environment_sets(monkeypatch):
    monkeypatch.setenv("MAX_SAMPLES", "5")
    assert data_knobs().max_samples == 5
    assert data_knobs("max_samples=null").max_samples is None


@pytest.mark.parametrize("knob", ["max_samples", "dataset", "system_prompt"])
def test_null_means_unset_in_the_environment_as_well(monkeypatch, knob):
    monkeypatch.setenv(knob.upper(), "null")
    assert getattr(data_knobs(), knob) is None


def test_null_for_a_knob_that_must_be_set_is_refused_from_either_side(monkeypatch):
    with pytest.raises(UserError, match="SEED=None: expected a whole number"):
        data_knobs("seed=null")
    monkeypatch.setenv("SEED", "null")
    with pytest.raises(UserError, match="SEED=null: expected a whole number"):
        data_knobs()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("batch_size=many", "BATCH_SIZE=many: expected a whole number (problems in flight"),
        ("batch_size=1.5", "BATCH_SIZE=1.5: expected a whole number"),
        ("batch_size=", "BATCH_SIZE=: expected a whole number"),
        ("batch_size=0", "BATCH_SIZE=0: must be at least 1 (problems in flight"),
        ("seed=-1", "SEED=-1: must be at least 0"),
        ("seed=4294967296", "SEED=4294967296: must be at most 4294967295"),
        ("temperature=hot", "TEMPERATURE=hot: expected a number (0 is greedy)"),
        ("temperature=-1", "TEMPERATURE=-1.0: must be at least 0"),
        ("temperature=nan", "TEMPERATURE=nan: expected a finite number"),
        ("temperature=inf", "TEMPERATURE=inf: expected a finite number"),
        ("top_p=1.1", "TOP_P=1.1: must be at most 1 (nucleus sampling)"),
        ("top_p=0", "TOP_P=0.0: must be at least 1e-06"),
        ("revise_correct=perhaps", "REVISE_CORRECT=perhaps: expected 0 or 1 (1: also revise correct y_init"),
        ("revise_correct=2", "REVISE_CORRECT=2: expected 0 or 1"),
        ("mode=chess", "MODE=chess: expected one of math, code (math: final answers are compared; code:"),
        ("sampler=VLLM", "SAMPLER=VLLM: expected one of auto, vllm, transformers"),
        ("max_samples=x", "MAX_SAMPLES=x: expected a whole number (at most this many problems; unset: all)"),
    ],
)
def test_a_bad_value_names_the_knob_and_what_it_means(monkeypatch, argument, message):
    with pytest.raises(UserError, match=re.escape(message)):
        data_knobs(argument)
    variable, _, value = argument.partition("=")
    monkeypatch.setenv(variable.upper(), value)
    with pytest.raises(UserError, match=re.escape(message)):
        data_knobs()


@every_config
@pytest.mark.parametrize(
    "damage", [lambda key: key[:-1] + "x", lambda key: key[1:], lambda key: key.upper() + "S"]
)
def test_an_unknown_knob_is_refused_with_the_nearest_name(name, damage):
    line = max(knob_lines(name), key=lambda line: len(line.key))
    with pytest.raises(UserError) as caught:
        load(name, f"{damage(line.key)}=1")
    assert re.search(rf"unknown knob '.*did you mean {line.key}\?", str(caught.value), re.IGNORECASE)
    assert "--help" in str(caught.value)


@pytest.mark.parametrize("argument", ["batch_size", "--batch_size=3", "xyzzy=1", "=3", ""])
def test_an_argument_that_is_not_a_known_knob_is_refused(argument):
    with pytest.raises(UserError, match="unknown knob .*expected key=value"):
        data_knobs(argument)


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("sft", "epochs_stage1", "unknown knob 'epochs_stage1': expected key=value, so write epochs_stage1=VALUE"),
        ("sft", "--epochs-stage1=4", "so write epochs_stage1=4"),
        ("sft", "EPOCHS_STAGE1", "so write epochs_stage1=VALUE"),
        ("sft", "lr=1e-3", "unknown knob 'lr=1e-3'; did you mean LR_STAGE1 and LR_STAGE2?"),
        ("distill", "--learning_rate=1e-3", "did you mean LR?"),
        ("distill", "model_path=x", "did you mean STUDENT_MODEL?"),
        ("sft", "--dryrun", "unknown argument '--dryrun'; did you mean --dry-run?"),
        ("distill", "-dry_run", "unknown argument '-dry_run'; did you mean --dry-run?"),
        ("sft", "lr_stage1=0", "LR_STAGE1=0.0: must be above 0"),
        ("distill", "lr=0", "LR=0.0: must be above 0"),
        ("distill", "lr=5", "LR=5.0: must be at most 1"),
        ("distill", "lora_alpha=0", "LORA_ALPHA=0.0: must be above 0"),
    ],
)
def test_a_refusal_says_what_to_write(name, argument, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load(name, argument)


def test_a_misspelled_variable_causes_a_warning(monkeypatch, capsys):
    monkeypatch.setenv("TARGET_REVISION_SAMPLE", "5")
    monkeypatch.setenv("TEACHER_SYNC", "x")  # another entry point's knob
    assert data_knobs().target_revision_samples == 6000
    assert capsys.readouterr().out == (
        "warning: the environment variable TARGET_REVISION_SAMPLE is not a knob; did you mean "
        "TARGET_REVISION_SAMPLES?\n"
        "note: run_srt_data.sh does not read these knobs of other scripts: TEACHER_SYNC\n"
    )


@pytest.mark.parametrize(
    ("name", "variable", "right"),
    [
        ("sft", "LR", "did you mean LR_STAGE1 and LR_STAGE2?"),
        ("distill", "MODEL_PATH", "did you mean STUDENT_MODEL?"),
        ("distill", "LEARNING_RATE", "did you mean LR?"),
        ("sft", "LEARNING_RATE", "did you mean LR_STAGE1 and LR_STAGE2?"),
        ("distill", "STUDENT", "did you mean STUDENT_MODEL?"),
        ("distill", "MAX_STEPS", "did you mean MAX_NUM_STEPS?"),
        ("sft", "DRY_RUN", "did you mean the argument --dry-run?"),
        ("evaluate", "STUDENT_MODEL", "did you mean MODEL_PATH?"),
        ("srt_data", "MODEL_NAME", "did you mean MODEL_PATH?"),
    ],
)
def test_a_variable_that_is_a_knob_elsewhere_is_named_as_ignored_with_the_right_one(
    monkeypatch, capsys, name, variable, right
):
    monkeypatch.setenv(variable, "7")
    load(name)
    out = capsys.readouterr().out
    assert out.startswith(f"warning: {variable}=7 is ignored, since ") and out.count("\n") == 1
    assert right in out


def test_a_knob_of_another_script_is_no_warning_where_the_right_one_is_set_too(monkeypatch, capsys):
    monkeypatch.setenv("MODEL_PATH", "a")
    monkeypatch.setenv("STUDENT_MODEL", "b")
    load("distill")
    assert capsys.readouterr().out == (
        "knobs: STUDENT_MODEL=b (environment)\n"
        "note: distill.sh does not read these knobs of other scripts: MODEL_PATH\n"
    )


@every_config
def test_nothing_is_said_where_nothing_is_set(capsys, name):
    load(name)
    assert capsys.readouterr().out == ""


def test_knobs_that_differ_from_their_defaults_are_printed_with_their_origin(monkeypatch, capsys):
    monkeypatch.setenv("MODEL_PATH", "/models/base")
    monkeypatch.setenv("EPOCHS_STAGE1", "3.0")  # as the default
    monkeypatch.setenv("LR_STAGE1", "1e-3")
    load("sft", "lr_stage2=1e-2", "packing=0", "gradient_checkpointing=0")
    assert capsys.readouterr().out == (
        "knobs: BASE_MODEL=/models/base (environment, MODEL_PATH); LR_STAGE1=0.001 (environment); "
        "LR_STAGE2=0.01, PACKING=0, GRADIENT_CHECKPOINTING=0 (command line)\n"
    )


def test_paths_are_expanded_and_lose_their_trailing_slash(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODEL_PATH", "~/model/")
    config = load("srt_data", "output_dir=~", "dataset=some/set/", "system_prompt=~/text/")
    assert (config.model_path, config.output_dir) == (f"{tmp_path}/model", str(tmp_path))
    assert (config.dataset, config.system_prompt) == ("some/set", "~/text/")
    assert load("sft").base_model == f"{tmp_path}/model"


def test_an_empty_path_is_unset_or_refused(monkeypatch):
    monkeypatch.setenv("MODEL_PATH", " ")
    monkeypatch.setenv("OUTPUT_DIR", "")
    with pytest.raises(UserError, match="MODEL_PATH is empty: expected base model"):
        load("srt_data")
    assert load("evaluate").model_path is None
    with pytest.raises(UserError, match="MODEL_PATH=~nobody-here/x: there is no such user"):
        load("srt_data", "model_path=~nobody-here/x")


def test_no_knob_is_a_variable_that_shells_set():
    assert not {line.env for name in SCHEMAS for line in knob_lines(name)} & {"PATH", "HOME", "LANG", "TMPDIR"}
    assert os.environ.get("MODEL_PATH") is None  # see the autouse fixture in conftest.py


def test_a_knob_that_a_schema_requires_may_be_unset_in_the_table(capsys):
    """opsd.config.RunConfig has both models named, which configs/distill.yaml leaves open."""
    config = load_config(RunConfig, "distill", ["student_model=a", "teacher_model=b"])
    assert (config.student_model, config.teacher_model) == ("a", "b")
    assert "STUDENT_MODEL=a, TEACHER_MODEL=b (command line)" in capsys.readouterr().out
