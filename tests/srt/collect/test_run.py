"""From knobs to a collection: the selected problems, the collector's config, and the dry run."""

import datetime
import json
import re
import shutil
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from srt.collect.consumed import read_consumed, text_sha256
from srt.collect.run import CollectConfig, collect, selected_problems
from srt.collect.selection import Selection
from srt.common.errors import UserError
from srt.common.files import read_json, write_json
from srt.common.models import load_tokenizer
from srt.config import CONFIGS, KnobLine, load_config, read_knob_table
from srt.contract.phrases import PHRASE_SETS
from srt.contract.prompt import PromptFormat
from srt.contract.provenance import write_metadata
from srt.report.data import read_run
from srt.report.folders import RunFolders
from tests.srt.helpers.scripted import ScriptedSampler


@pytest.fixture
def config_for(tmp_path, tiny_checkpoint):
    """config_for(*overrides) -> argv for ten problems and the tiny model, with its output in tmp_path/output."""
    problems = tmp_path / "problems.jsonl"
    lines = [{"id": f"p{n}", "problem": f"x = {n}", "answer": "7"} for n in range(10)]
    problems.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fixed = [
        f"dataset={problems}",
        f"model_path={tiny_checkpoint}",
        f"output_dir={tmp_path / 'output'}",
        "sampler=transformers",
        "max_tokens=3",
        "prompt_suffix=",
        "grading_workers=1",
    ]
    return lambda *overrides: [*fixed, *overrides]


# Which problems -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "chosen"),
    [
        ([], range(10)),
        (["start_index=3"], range(3, 10)),
        (["end_index=4"], range(4)),
        (["start_index=3", "end_index=4"], [3]),
        (["start_index=8", "end_index=99"], [8, 9]),
        (["max_samples=2"], [0, 1]),
        (["max_samples=99"], range(10)),
        (["start_index=3", "end_index=9", "max_samples=2"], [3, 4]),
    ],
)
def test_start_end_and_number_select_the_problems(config_for, overrides, chosen):
    loaded = selected_problems(load_config(CollectConfig, "srt_data", config_for(*overrides)))
    assert [problem.id for problem in loaded.problems] == [f"p{n}" for n in chosen]


@pytest.mark.parametrize("overrides", [["start_index=10"], ["start_index=4", "end_index=4"]])
def test_a_selection_without_problems_is_an_error(config_for, overrides):
    with pytest.raises(UserError, match="no problem is left between START_INDEX="):
        selected_problems(load_config(CollectConfig, "srt_data", config_for(*overrides)))


# The collector's config ---------------------------------------------------------------------------------


@pytest.fixture
def collector_config(config_for, monkeypatch):
    """collector_config(*overrides) -> the resulting CollectorConfig; nothing is sampled."""

    class Stop(Exception):
        pass

    def stop(problems, layout, sampler, grader, config, output_dir):
        seen.append(config)
        raise Stop

    def load(*overrides):
        with pytest.raises(Stop):
            collect(config_for(*overrides))
        return seen[-1]

    seen = []
    monkeypatch.setattr("srt.collect.run.Collector", stop)
    return load


def test_both_branches_of_revise_correct(collector_config, tmp_path):
    assert collector_config().revise == {0}
    assert collector_config("revise_correct=1", f"output_dir={tmp_path / 'other'}").revise == {0, 1}


def test_the_numbers_reach_the_collector(collector_config):
    config = collector_config(
        "num_responses=3",
        "num_revisions=2",
        "batch_size=5",
        "target_revision_samples=4",
        "revise_correct=1",
        "right_share=0.25",
        "seed=9",
        "revise_truncated=0",
        "clean=0",
    )
    assert (config.num_responses, config.num_revisions, config.max_in_flight) == (3, 2, 5)
    assert (config.selection, config.seed) == (Selection(4, 0.25), 9)
    assert (config.revise_truncated, config.clean) == (False, False)


def test_a_share_of_right_responses_that_are_not_revised_is_refused(config_for):
    with pytest.raises(UserError, match=r"RIGHT_SHARE=0\.5 asks for .* REVISE_CORRECT=0 .*; set REVISE_CORRECT=1"):
        collect(config_for("right_share=0.5"))
    collect([*config_for("right_share=0"), "--dry-run"])


def test_cleaning_is_on_unless_it_is_switched_off(collector_config):
    assert collector_config().clean is True


def test_cleaning_and_the_target_may_change_in_a_run_and_num_responses_may_not(collector_config):
    collector_config()
    collector_config("clean=0", "target_revision_samples=1")
    with pytest.raises(UserError, match="num_responses was 1 and is now 2"):
        collector_config("num_responses=2")


# The contract -------------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_collected_from_keeps_its_phrases_and_prompt(config_for, tmp_path, tiny_checkpoint):
    trained = shutil.copytree(tiny_checkpoint, tmp_path / "trained")
    prompt = PromptFormat(prompt_suffix="Think.")
    stored = {"mode": "math", "control_phrases": PHRASE_SETS["olmo"].as_dict(), "prompt": prompt.as_dict()}
    write_metadata(trained, stored)
    model = [f"model_path={trained}", "prompt_suffix=null", "max_samples=1"]
    collect(config_for(*model))
    identity = read_json(tmp_path / "output" / "run.json")["identity"]
    assert identity["control_phrases"] == stored["control_phrases"] and identity["prompt"] == stored["prompt"]
    with pytest.raises(UserError, match=r"CONTROL_PHRASES=qwen contradicts .*trained"):
        collect(config_for(*model, "control_phrases=qwen"))
    with pytest.raises(UserError, match=r"MODE=code contradicts .*trained.*MODE=math"):
        collect([*config_for(*model, "mode=code"), "--dry-run"])


def test_the_prompts_of_a_run_keep_its_date(config_for, tmp_path, tiny_checkpoint, monkeypatch):
    dated = shutil.copytree(tiny_checkpoint, tmp_path / "dated")
    template = dated / "chat_template.jinja"
    template.write_text("{{- strftime_now('%d') }}" + template.read_text())
    knobs = config_for(f"model_path={dated}", "max_samples=2", "revise_truncated=0")
    collect(knobs)
    run = read_json(tmp_path / "output" / "run.json")
    assert run["identity"]["prompt"]["date"] == datetime.date.today().isoformat()

    monkeypatch.setattr("srt.contract.prompt._today", lambda: "2999-01-02")
    collect(knobs)  # is not refused, and nothing is sampled again
    assert read_json(tmp_path / "output" / "run.json")["identity"] == run["identity"]
    collect(config_for(f"model_path={dated}", "max_samples=2", f"output_dir={tmp_path / 'other'}"))
    assert read_json(tmp_path / "other" / "run.json")["identity"]["prompt"]["date"] == "2999-01-02"


# Results ------------------------------------------------------------------------------------------------


def test_run_json_counts_what_was_done_and_set_aside(config_for, tmp_path, capsys):
    with (tmp_path / "problems.jsonl").open("a") as file:
        file.write('{"problem": "Show it.", "answer": "proof"}\n{"id": "p3", "problem": "x = 3", "answer": "7"}\n')
        file.write(json.dumps({"id": "long", "problem": "x " * 3000, "answer": "7"}) + "\n")
    collect(config_for("revise_truncated=0"))
    results = read_json(tmp_path / "output" / "run.json")["results"]
    assert (results["unreadable_records"], results["repeated_records"]) == (1, 1)
    assert results["set_aside"] == 1 and results["set_aside_by_reason"] == {"the prompt is too long": 1}
    assert (results["cleaned"], results["clean"], results["tuples"]) == ({}, True, 0)
    assert re.search(r"set aside +1 without a verdict \(.*the prompt is too long.*\)\n", capsys.readouterr().out)
    recipe = {"name": "readme", "overridden": {"max_tokens": 3}}
    assert read_json(tmp_path / "output" / "run.json")["config"]["recipe"] == recipe
    used = read_consumed(tmp_path / "output" / "srt_problems.jsonl")
    assert list(used.values()) == [*(f"p{n}" for n in range(10)), "long"] and results["problems"] == 11
    assert text_sha256("x = 3") in used


@pytest.fixture
def scripted(monkeypatch, tiny_checkpoint):
    """The tiny model is never right; this sampler is, in four responses of ten."""
    layout = SimpleNamespace(tokenizer=load_tokenizer(str(tiny_checkpoint)))
    monkeypatch.setattr("srt.sampling.from_config.open_sampler", lambda *_, **__: ScriptedSampler(layout))


@pytest.mark.usefixtures("scripted")
def test_run_json_says_how_the_tuples_were_chosen_at_last(config_for, tmp_path):
    both = ["max_tokens=50", "num_responses=4", "revise_correct=1"]
    collect(config_for(*both, "target_revision_samples=2"))
    before = read_json(tmp_path / "output" / "run.json")
    collect(config_for(*both, "target_revision_samples=4", "right_share=0.25", "clean=0"))
    run = read_json(tmp_path / "output" / "run.json")
    assert run["config"] == before["config"]
    chosen = {name: run["results"][name] for name in ("target_revision_samples", "right_share", "clean", "tuples")}
    assert chosen == {"target_revision_samples": 4, "right_share": 0.25, "clean": False, "tuples": 4}
    assert read_run(RunFolders("run", collection=tmp_path / "output")).collection["config"]["right_share"] == 0.25


@pytest.mark.usefixtures("scripted")
def test_tuples_that_were_edited_are_kept_and_those_of_a_killed_run_are_not_taken_for_edited(
    config_for, tmp_path, monkeypatch
):
    collect(config_for("max_tokens=50", "num_responses=4", "target_revision_samples=1"))
    with monkeypatch.context() as patch:
        patch.setattr("srt.collect.run.write_consumed", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # after the tuples were written, before run.json knows of them
            collect(config_for("max_tokens=50", "num_responses=4", "target_revision_samples=2"))
    collect(config_for("max_tokens=50", "num_responses=4", "target_revision_samples=3"))
    path = tmp_path / "output" / "d_revision.json"
    tuples = read_json(path)
    assert len(tuples) == 3
    write_json(path, tuples[1:])
    with pytest.raises(UserError, match=r"d_revision\.json was edited since it was written"):
        collect(config_for("max_tokens=50", "num_responses=4", "target_revision_samples=3"))
    assert read_json(path) == tuples[1:]


# Dry run ------------------------------------------------------------------------------------------------


@pytest.fixture
def dry_run(config_for, capsys, monkeypatch):
    """dry_run(*overrides) -> what it prints; starting an engine or a grader fails the test."""

    def refuse(*_, **__):
        raise AssertionError("a dry run starts nothing")

    for name in ("collect.run.sampler_from_config", "collect.run.open_grader", "collect.run.open_run"):
        monkeypatch.setattr(f"srt.{name}", refuse)

    def run(*overrides):
        collect([*config_for(*overrides), "--dry-run"])
        return capsys.readouterr().out

    return run


def test_a_dry_run_prints_the_resolved_knobs_in_the_order_of_the_table(dry_run, tmp_path):
    printed = dry_run("batch_size=5", "data_prefix=mine")
    table = [line for line in read_knob_table(CONFIGS / "srt_data.yaml") if isinstance(line, KnobLine)]
    names = [line.split("=")[0] for line in printed.partition("knobs\n")[2].splitlines()[: len(table)]]
    assert names == [f"  {line.env}" for line in table]
    for line in (
        "BATCH_SIZE=5",
        "TEMPERATURE=1.0",
        "CLEAN=1",
        "DATA_PREFIX=mine",
        "PROMPT_SUFFIX=",
        "END_INDEX=null",
        f"OUTPUT_DIR={tmp_path / 'output'}",
    ):
        assert f"\n  {line}\n" in printed


def test_a_dry_run_shows_prompts_with_their_special_tokens_and_both_phrases(dry_run):
    printed = dry_run()
    assert "  | <|im_start|>user\n  | x = 0<|im_end|>\n  | <|im_start|>assistant\n" in printed
    assert "x = 1<|im_end|>" in printed and "x = 2<|im_end|>" not in printed
    for phrase in ("Wait, this response is wrong. Let me correct it.", "Let me rephrase the above solution."):
        assert f"first response>\n  | \n  | {phrase}\n  | \n  | \n" in printed
    assert "(r = 1, not used with REVISE_CORRECT=0)" in printed
    assert "a response ends with: <|im_end|> (" in printed


def test_a_dry_run_estimates_tokens(dry_run):
    printed = dry_run("max_tokens=100", "num_responses=2", "num_revisions=3")
    assert "sampled tokens per problem         800 at most" in printed
    assert "sampled tokens in total            8,000 at most" in printed


def test_a_dry_run_says_whether_the_folder_holds_a_run_and_writes_nothing(dry_run, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert "(new)\ndry run: no engine was started, nothing was written" in dry_run()
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "run.json").write_text('{"identity": {}}')
    assert "(it holds a run, which this would continue)" in dry_run()
