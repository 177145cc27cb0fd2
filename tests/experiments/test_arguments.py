"""What the commands of the experiments do with -h and with arguments that they do not expect."""

import os

import pytest

from experiments.arguments import let_the_plan_decide
from experiments.eight_gpus import kill, load_export, models, nodes
from experiments.eight_gpus import run as eight_gpus
from experiments.one_gpu import problems, screening, seeds
from experiments.one_gpu import run as one_gpu
from srt.common.errors import UserError

MODULES = (one_gpu, problems, screening, seeds, eight_gpus, kill, nodes, load_export, models)


@pytest.mark.parametrize("arguments", [["-h"], ["x", "--help"]])
@pytest.mark.parametrize("module", MODULES)
def test_help_is_the_modules_docstring_among_other_arguments_too(module, arguments, capsys):
    with pytest.raises(SystemExit) as end:
        module.main(arguments)
    assert not end.value.code
    assert capsys.readouterr().out == (module.__doc__ or "").strip() + "\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--nonsense"], "unknown argument '--nonsense'; --help shows how to run this script"),
        (["sd_zero", "--nonsense"], "unknown argument '--nonsense'; --help"),
        (["--results"], "unexpected argument '--results'; --help"),
        (["--list", "sd_zero"], "unexpected argument '--list'; --help"),
        (["nonsense"], "no job nonsense; there are "),
    ],
)
@pytest.mark.parametrize("module", [one_gpu, eight_gpus])
def test_options_that_are_not_expected_are_refused_as_given(module, arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    with pytest.raises(UserError) as refusal:
        module.main(arguments)
    assert str(refusal.value).startswith(sentence)
    assert not (tmp_path / "out").exists()


def test_knobs_of_the_environment_do_not_reach_the_jobs(monkeypatch, capsys):
    given = {"LR_STAGE1": "1", "TEACHER_CUE": "0", "SEED": "1", "SAMPLER_BATCH": "8", "OMP_NUM_THREADS": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    let_the_plan_decide(["sft", "distill"], ["SAMPLER_BATCH"])
    assert [name for name in given if name in os.environ] == ["SAMPLER_BATCH", "OMP_NUM_THREADS"]
    assert capsys.readouterr().out.endswith("the plan decides about them: LR_STAGE1, TEACHER_CUE\n")
    let_the_plan_decide(["sft", "distill"], ["SAMPLER_BATCH"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "module", "arguments", "sentence"),
    [
        ("MINUTES", one_gpu, [], "MINUTES=soon: expected a number"),
        ("MINUTES", eight_gpus, ["collect"], "MINUTES=soon: expected a number"),
        ("SIZES", eight_gpus, ["--list"], "SIZES=soon: expected numbers of GPUs, such as 1,2,4"),
        ("GPU_GB", eight_gpus, ["--dry-run", "distill"], "GPU_GB=soon: expected a number"),
    ],
)
def test_what_is_no_number_is_named(name, module, arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    monkeypatch.setenv(name, "soon")
    with pytest.raises(UserError) as refusal:
        module.main(arguments)
    assert str(refusal.value) == sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (problems, "OUTPUT_DIR [word_problems|number_puzzles]"),
        (screening, "--write CANDIDATES.jsonl or --choose DIR"),
        (seeds, "FOLDER results.json [results.json ...]"),
        (models, "SHAPE FOLDER [TOKENIZER], a shape of qwen2.5-1.5b, qwen3-4b, olmo3-7b, tiny"),
    ],
)
@pytest.mark.parametrize("arguments", [[], ["--nonsense"]])
def test_the_modules_say_what_they_expect(module, expected, arguments):
    with pytest.raises(UserError) as refusal:
        module.main(arguments)
    assert str(refusal.value) == f"expected {expected}; --help shows how to run it"
