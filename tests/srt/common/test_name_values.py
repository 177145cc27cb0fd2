"""Settings of benchmarks and experiments as name=value arguments."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from srt.common.name_values import read_name_values


@dataclass(frozen=True)
class Options:
    model: str
    folder: Path = Path("out")
    steps: int = 3
    lr: float = 1e-3
    suffix: str | None = None


def read(*arguments: str) -> Options:
    return read_name_values(Options, list(arguments), "Measures something.\n")


def test_values_are_converted_and_what_is_not_given_has_its_default():
    assert read("model=a=b") == Options("a=b")
    given = read("steps=4", "folder=x/y", "model=m", "lr=2e-4", "suffix=")
    assert given == Options("m", Path("x/y"), 4, 2e-4, "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["model=m", "steeps=3"],
            "error: steeps=3 is no setting; there are model=, folder=, steps=, lr=, suffix=",
        ),
        (["model"], "error: model is no setting; there are"),
        (["steps=3"], "error: model= must be given; -h shows all settings"),
        (["model=m", "steps=many"], "error: steps=many: expected a value of type int"),
    ],
)
def test_a_setting_that_is_unknown_missing_or_of_another_type_is_named(arguments, sentence):
    with pytest.raises(SystemExit) as ended:
        read(*arguments)
    assert str(ended.value).startswith(sentence)


@pytest.mark.parametrize("arguments", [["-h"], ["model=m", "--help"], []])
def test_help_shows_all_settings_with_their_defaults(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        read(*arguments)
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Measures something.\n\nsettings:\n  model=...\n  folder=out\n  steps=3\n")
