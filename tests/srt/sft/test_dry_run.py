"""sft.sh --dry-run: what it prints is what a run does, and nothing is written."""

import re

import pytest

from srt.common.dry_run import SFT, Rate, gpu_hours
from srt.common.files import read_json
from srt.common.models import count_parameters, load_model, load_model_config
from srt.config import CONFIGS, KnobLine, read_knob_table
from tests.srt.helpers.sft_updates import log_of


def test_a_dry_run_prints_the_updates_and_tokens_of_the_run_and_writes_nothing(run_train, capsys, tmp_path):
    knobs = ("tuples_per_update=5", "epochs_stage1=2", "recipe=release", "control_phrases=qwen")
    knobs += ("lr_stage1=1e-4", "lr_stage2=1e-4")  # the usual ones, at which few updates are a warning
    before = sorted(tmp_path.rglob("*"))
    run_train(*knobs, "--dry-run")
    assert sorted(tmp_path.rglob("*")) == before
    printed = capsys.readouterr().out
    assert "recipe: overridden by TUPLES_PER_UPDATE=5 (not 4)\n" in printed
    for line in read_knob_table(CONFIGS / "sft.yaml"):
        assert not isinstance(line, KnobLine) or f"\n  {line.env}=" in printed
    assert f"\noutput: {tmp_path / 'out'} (new)\ndry run: nothing was trained or written\n" in printed

    out = run_train(*knobs)
    trained = capsys.readouterr().out
    for number, updates in ((1, 6), (2, 3)):
        part = printed.partition(f"\nStage {number}, ")[2].partition("\n\n")[0]
        assert re.search(rf"updates +{updates}\n", part)
        assert f"warning: stage {number} makes {updates} updates" in part
        tokens = int(re.search(r"\n  tokens +([\d,]+)\n", part)[1].replace(",", ""))
        assert len(log_of(out / f"stage{number}")) == updates
        trained_part = trained.partition(f"\nStage {number}\n")[2]
        assert tokens == int(re.search(r"\n  tokens +([\d,]+)\n", trained_part)[1].replace(",", ""))
    recipe = {"name": "release", "overridden": {"tuples_per_update": 5}}
    assert read_json(out / "run.json")["config"]["recipe"] == recipe
    assert read_json(out / "stage2" / "sd_zero.json")["recipe"] == {"sft": recipe}
    run_train(*knobs, "--dry-run")
    assert "(it holds a run, which this would continue)" in capsys.readouterr().out


def test_gpu_hours_grow_with_tokens_and_parameters_and_name_their_source(tiny_checkpoint):
    rate = Rate(1000, "a section")
    assert gpu_hours(3_600_000, rate, 1_540_000_000).startswith(
        "1 on H100s for 1.54 B parameters, by 1,000 tokens/s"
    )
    assert gpu_hours(7_200_000, rate, 4_620_000_000).startswith("6 on H100s for 4.62 B")
    assert gpu_hours(1, rate, 1).startswith("below 0.001 on H100s")
    assert "docs/records.md, a section" in gpu_hours(1, rate, 1)
    parameters = sum(parameter.numel() for parameter in load_model(str(tiny_checkpoint)).parameters())
    assert count_parameters(load_model_config(str(tiny_checkpoint))) == parameters


@pytest.mark.parametrize("figure", ["25 727", "23 800", "8.8", "381"])
def test_the_measured_rates_are_in_the_records(figure):
    assert figure in (CONFIGS.parent / "docs" / "records.md").read_text(encoding="utf-8")
    assert SFT.tokens_per_second == 25_727
