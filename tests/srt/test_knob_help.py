"""--help: titled by the script, with values that each knob takes, an example, and what may change in a run."""

import re
from dataclasses import fields

import pytest

from opsd.config import NOT_IDENTITY, VALIDATION_KNOBS, DistillConfig, identity
from opsd.localize.config import LocalizeConfig
from srt.collect.config import MAY_CHANGE, CollectConfig
from srt.common.errors import UserError
from srt.config import CONFIGS, LARGEST_SEED, load_config, option
from srt.evaluation.config import EvaluateConfig
from srt.knob_help import accepted_values, help_or_refuse, print_help
from srt.knob_notes import shown_value
from srt.report.run import ReportConfig
from srt.sft.config import SftConfig

SCRIPTS = {
    "run_srt_data": ("srt_data", CollectConfig),
    "sft": ("sft", SftConfig),
    "distill": ("distill", DistillConfig),
    "evaluate": ("evaluate", EvaluateConfig),
    "report": ("report", ReportConfig),
    "localize": ("localize", LocalizeConfig),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_the_scripts_name_an_example_and_fits_the_terminal(script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    config_name, schema = SCRIPTS[script]
    print_help(schema, config_name)
    printed = capsys.readouterr().out
    assert printed.startswith(f"Knobs of scripts/{script}.sh: ")
    assert re.search(rf"Example[^\n]*: [^:]*bash scripts/{script}\.sh", " ".join(printed.split()))
    # A default or the values of a knob stay on its own line, whatever their length.
    assert all(len(line) <= 80 for line in printed.splitlines() if not re.match("  [A-Z]", line))


@pytest.mark.parametrize("columns", ["60", "100"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_examples_of_the_help_can_be_pasted(script, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    config_name, schema = SCRIPTS[script]
    print_help(schema, config_name)
    printed = capsys.readouterr().out.replace(" \\\n    ", " ")  # as a shell joins them
    stated = re.findall(r"^# (Example[^:]*): (.*)", (CONFIGS / f"{config_name}.yaml").read_text(), re.MULTILINE)
    assert stated
    for title, command in stated:
        assert re.search(rf"^{title}:(\n   )? {re.escape(command)}$", printed, re.MULTILINE)


def test_help_marks_the_knobs_that_may_change_when_a_run_continues(capsys):
    with pytest.raises(SystemExit):
        help_or_refuse(CollectConfig, "srt_data", ["--help"], MAY_CHANGE)
    printed = capsys.readouterr().out
    assert re.search(r"^  BATCH_SIZE=64  \(whole number from 1\) \*$", printed, re.MULTILINE)
    assert re.search(r"^  CODE_SANDBOX=bwrap  \(one of bwrap, rlimits\) \*$", printed, re.MULTILINE)
    assert re.search(r"^  TOP_P=0.9  \(number from 1e-06 to 1\)$", printed, re.MULTILINE)
    assert "* may have another value when a run continues" in printed


def test_the_marked_knobs_of_phase_2_are_those_outside_of_its_identity():
    kept = identity(load_config(DistillConfig, "distill", []))
    assert kept.keys().isdisjoint(NOT_IDENTITY + VALIDATION_KNOBS)
    assert kept.keys() | {*NOT_IDENTITY, *VALIDATION_KNOBS} == {field.name for field in fields(DistillConfig)}


@pytest.mark.parametrize(
    ("type_", "limits", "expected"),
    [
        (bool, {}, "0 or 1"),
        (int | None, {"ge": 1}, "whole number from 1"),
        (float, {"ge": 0, "le": 1}, "number from 0 to 1"),
        (int, {"ge": 0, "le": LARGEST_SEED}, "whole number from 0 to 4294967295"),
        (float, {"gt": 0, "le": 1}, "number above 0, at most 1"),
        (float, {}, "number"),
        (str, {"choices": ("math", "code")}, "one of math, code"),
        (str | None, {}, ""),
    ],
)
def test_the_values_that_a_knob_takes(type_, limits, expected):
    field = option(**limits)
    field.type = type_
    assert accepted_values(field) == expected


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "null"), (True, "1"), ("", "''"), ("a b", "'a b'"), (5e-6, "5e-06")],
)
def test_values_are_shown_as_they_can_be_typed(value, shown):
    assert shown_value(value) == shown


def test_a_wrong_knob_is_refused_and_nothing_is_printed_besides(capsys):
    with pytest.raises(UserError, match="BATCH_SIZE=0: must be at least 1"):
        help_or_refuse(CollectConfig, "srt_data", ["batch_size=0"])
    help_or_refuse(CollectConfig, "srt_data", ["batch_size=3", "--dry-run"])
    assert capsys.readouterr().out == ""
