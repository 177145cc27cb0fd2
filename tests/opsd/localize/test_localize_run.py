"""localize.sh in one process: from knobs to files, again and again, and what it refuses."""

import dataclasses
import json
import re
import shutil

import pytest

from opsd.localize import run as localize_run
from opsd.localize.records import ScoredResponse
from opsd.localize.run import localize
from quickstart.world import write_jsonl
from srt.collect.collector import GREEDY
from srt.common.errors import UserError
from srt.common.files import read_jsonl, write_json
from srt.common.files import write_jsonl as write_lines
from srt.contract.model_identity import model_identity
from srt.contract.records import pack_ids
from tests.opsd.helpers.localization import attempts_line


@pytest.fixture
def knobs(tmp_path, tiny_checkpoint, world_problems, monkeypatch):
    """The knobs of a small run that samples its own responses."""
    monkeypatch.setattr("srt.common.files._locks", {})  # the test is several processes one after the other
    write_jsonl(tmp_path / "problems.jsonl", "p", world_problems[:6])
    return {
        "student_model": tiny_checkpoint,
        "dataset": tmp_path / "problems.jsonl",
        "prompt_suffix": "",
        "sampler": "transformers",
        "max_tokens": 12,
        "grading_workers": 1,
        "pair_names": "tiny",
        "output_dir": tmp_path / "out",
    }


@pytest.fixture
def logged_run(tmp_path, graded, layout, tiny_checkpoint):
    """A folder as evaluate.sh leaves it, with a line that is being written."""
    folder = tmp_path / "evaluation"
    folder.mkdir()
    write_lines(folder / "attempts.jsonl", [attempts_line(one, layout) for one in graded])
    with open(folder / "attempts.jsonl", "a") as file:
        file.write('{"kind": "response", "y_')
    identity, config = {"prompt": layout.prompt.as_dict()}, {"model_path": str(tiny_checkpoint)}
    write_json(folder / "run.json", {"identity": identity, "config": config})
    return folder


def run(knobs, *arguments):
    localize([*(f"{name}={value}" for name, value in knobs.items()), *arguments])


def of_existing(knobs, folder, **changes):
    kept = {name: value for name, value in knobs.items() if name not in ("student_model", "dataset")}
    return {**kept, "run": folder, **changes}


def results(knobs):
    return json.loads((knobs["output_dir"] / "localization.json").read_text())


def test_responses_are_sampled_graded_scored_and_written(knobs, capsys):
    run(knobs)
    out = knobs["output_dir"]
    (pair,) = results(knobs)["pairs"]
    assert pair["responses"] == 6 and pair["cut_off"] > 0
    attempts = [line for line in read_jsonl(out / "tiny" / "attempts.jsonl") if line["kind"] == "response"]
    scores = [ScoredResponse.from_line(line) for line in read_jsonl(out / "tiny" / "scores.jsonl")]
    assert len(attempts) == len(scores) == 6
    assert {one.id: len(one.ids) for one in scores} == {one["id"]: one["y_init_tokens"] for one in attempts}
    assert [tokens["id"] for tokens in pair["tokens"]] == [f"p-{index:05d}" for index in range(6)]
    assert (out / "localization.html").read_text().startswith("<!DOCTYPE html>")
    stored = json.loads((out / "tiny" / "run.json").read_text())
    assert stored["identity"]["student"] == model_identity(str(knobs["student_model"]))
    assert stored["config"]["student_model"] == str(knobs["student_model"])
    assert "KL per token, wrong" in stored["results"]
    printed = capsys.readouterr().out
    assert "tiny: 6 responses" in printed
    for r, name in (("r0", "wrong"), ("r1", "right")):
        if mass := pair["figure_4"][r]:
            assert re.search(rf"KL per token, {name} +{mass['kl_per_token']:.4g}\n", printed)
            assert re.search(rf"share of the KL on the top 20 tokens, {name} +{mass['top_share']:.1%}\n", printed)


def test_a_second_call_samples_and_scores_nothing_again(knobs, monkeypatch):
    run(knobs)
    files = [knobs["output_dir"] / "tiny" / name for name in ("attempts.jsonl", "scores.jsonl")]
    before = [path.read_bytes() for path in files]

    def refuse(*arguments):
        raise AssertionError("a model was opened")

    monkeypatch.setattr(localize_run, "open_models", refuse)
    run(knobs)
    assert [path.read_bytes() for path in files] == before


def test_a_killed_run_scores_only_what_is_missing(knobs):
    run(knobs)
    scores = knobs["output_dir"] / "tiny" / "scores.jsonl"
    complete = results(knobs)
    lines = scores.read_text().splitlines(keepends=True)
    scores.write_text("".join(lines[:4]) + lines[4][:100])
    run(knobs)
    assert scores.read_text().splitlines(keepends=True)[:4] == lines[:4]
    assert len(read_jsonl(scores)) == 6
    assert results(knobs) == complete


@pytest.mark.parametrize("line", ['{"problem": 1}', '{"variants": [], "alternatives": 3}'])
def test_a_damaged_score_is_named(knobs, line):
    run(knobs)
    scores = knobs["output_dir"] / "tiny" / "scores.jsonl"
    first, second, *others = scores.read_text().splitlines(keepends=True)
    scores.write_text("".join([first, line + "\n", *others]))
    with pytest.raises(UserError, match=re.escape(f"{scores}, line 2: expected a scored response")):
        run(knobs)
    scores.write_text("".join([first, *others]))  # as the message says
    run(knobs)
    assert sorted(scores.read_text().splitlines(keepends=True)) == sorted([first, second, *others])


def test_pairs_are_finished_one_after_the_other_and_may_be_added(knobs, other_checkpoint, monkeypatch):
    """What is finished is on the page while the next pair is not; a later call adds a pair to the folder."""
    tiny = knobs["student_model"]
    run(knobs)
    first = results(knobs)["pairs"][0]
    knobs |= {"student_model": f"{tiny},{tiny}", "teacher_model": f"{tiny},{other_checkpoint}"}
    knobs["pair_names"] = "tiny,by another"

    def broken(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(localize_run, "open_models", broken)
        with pytest.raises(KeyboardInterrupt):
            run(knobs)
    assert results(knobs)["pairs"] == [first] and results(knobs)["unfinished"] == ["by another"]
    run(knobs)
    assert results(knobs)["pairs"][0] == first and results(knobs)["unfinished"] == []
    second = results(knobs)["pairs"][1]
    assert [one["tokens"] for one in second["tokens"]] == [one["tokens"] for one in first["tokens"]]
    assert not (knobs["output_dir"] / "by another" / "attempts.jsonl").exists()  # the same student's samples
    assert second["figure_4"]["r0"]["kl_per_token"] != first["figure_4"]["r0"]["kl_per_token"]


def test_the_responses_of_a_run_are_read_as_they_were_logged(knobs, logged_run, graded, tiny_checkpoint):
    knobs = of_existing(knobs, logged_run)
    run(knobs)
    (pair,) = results(knobs)["pairs"]
    assert pair["student"] == pair["teacher"] == str(tiny_checkpoint)
    assert pair["responses"] == len(graded)
    assert pair["wrong"] == sum(one.rollout.r == 0 for one in graded)
    scores = read_jsonl(knobs["output_dir"] / "tiny" / "scores.jsonl")
    assert {(s["problem"], tuple(s["ids"])) for s in scores} == {(g.problem, tuple(g.rollout.y)) for g in graded}
    assert pair["first_error"]["r0"]["checkable"] == pair["wrong"]
    assert not (knobs["output_dir"] / "tiny" / "attempts.jsonl").exists()


def test_max_samples_and_num_samples_choose_among_the_responses_of_a_run(knobs, logged_run):
    run(of_existing(knobs, logged_run, max_samples=4))
    assert results(knobs)["pairs"][0]["responses"] == 4


def test_greedy_responses_of_an_evaluation_are_not_among_them(knobs, logged_run, graded, layout):
    lines = [attempts_line(one, layout) for one in graded[:3]]
    lines += [line | {"response_idx": GREEDY} for line in lines]
    write_lines(logged_run / "attempts.jsonl", lines)
    run(of_existing(knobs, logged_run, num_samples=2, compare_phrases=0))
    assert results(knobs)["pairs"][0]["responses"] == 3


@pytest.mark.parametrize("content", ["[1]", '{"identity": [1]}', '{"identity": null, "config": 3}'])
def test_a_damaged_run_json_of_a_run_is_one_sentence(knobs, logged_run, content):
    (logged_run / "run.json").write_text(content)
    with pytest.raises(UserError, match="run.json: damaged"):
        run(of_existing(knobs, logged_run), "--dry-run")


def test_scores_of_other_responses_are_not_mixed_in(knobs, logged_run, graded, layout):
    """The run was made again in its folder: the same problems, other responses."""
    knobs = of_existing(knobs, logged_run, max_samples=2, compare_phrases=0)
    run(knobs)
    swapped = [dataclasses.replace(graded[1 - index], problem=index) for index in (0, 1)]
    (logged_run / "attempts.jsonl").unlink()
    write_lines(logged_run / "attempts.jsonl", [attempts_line(one, layout) for one in swapped])
    with pytest.raises(UserError, match="scores of other responses than there are now"):
        run(knobs)


def test_dry_run_counts_and_writes_nothing(knobs, logged_run, graded, capsys):
    run(knobs, "--dry-run")
    assert "6 to sample on" in capsys.readouterr().out
    knobs = of_existing(knobs, logged_run, compare_phrases=0)
    run(knobs, "--dry-run")
    out = capsys.readouterr().out
    assert f"{len(graded)} of {logged_run}" in out and "teacher passes: 1" in out and "COMPARE_PHRASES=0" in out
    assert not knobs["output_dir"].exists()


def test_knobs_reach_what_they_name(knobs, logged_run):
    knobs = of_existing(
        knobs, logged_run, alternatives=2, compare_phrases=0, max_teacher_tokens=60, examples=1, max_samples=3
    )
    run(knobs)
    (first, *_) = read_jsonl(knobs["output_dir"] / "tiny" / "scores.jsonl")
    assert {len(token) for token in first["alternatives"]} <= {2, 3, 4} and first["variants"] == {}
    assert len(first["ids"]) < 34
    page = (knobs["output_dir"] / "localization.html").read_text()
    data = json.loads(page.split('id="data-localization">')[1].split("</script>")[0])
    assert [len([r for r in pair["responses"] if r["r"] == reward]) <= 1 for pair in data for reward in (0, 1)]
    assert "COMPARE_PHRASES=0" in page


def test_another_neutral_phrase_changes_only_the_neutral_variant(knobs, logged_run):
    knobs = of_existing(knobs, logged_run, max_samples=2)
    run(knobs)
    run(other := {**knobs, "output_dir": knobs["output_dir"].with_name("other"), "neutral_phrase": "A 1 + 1 = 2"})
    for one, two in zip(
        *(read_jsonl(k["output_dir"] / "tiny" / "scores.jsonl") for k in (knobs, other)), strict=True
    ):
        assert one["kl"] == two["kl"]
        changed = {name for name in one["variants"] if one["variants"][name] != two["variants"][name]}
        assert changed == {"neutral"}


def test_other_settings_in_the_same_folder_are_refused(knobs):
    run(knobs)
    with pytest.raises(UserError, match="alternatives was 5 and is now 2"):
        run({**knobs, "alternatives": 2})


def test_another_checkpoint_under_the_same_name_is_refused(knobs, tmp_path, tiny_checkpoint):
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    run({**knobs, "student_model": model})
    (model / "generation_config.json").write_text(
        (model / "generation_config.json").read_text().replace("{", "{ ", 1)
    )
    with pytest.raises(UserError, match="student was"):
        run({**knobs, "student_model": model})


@pytest.mark.parametrize("content", ["nothing", "a file", "no attempts"])
def test_a_run_without_responses_is_one_sentence(knobs, tmp_path, content):
    folder = tmp_path / "something"
    if content == "a file":
        folder.write_text("")
    elif content == "no attempts":
        folder.mkdir()
    with pytest.raises(UserError, match="expected the OUTPUT_DIR of evaluate.sh"):
        run(of_existing(knobs, folder, student_model=knobs["student_model"]))


def test_a_run_that_only_began_is_one_sentence(knobs, logged_run):
    (logged_run / "attempts.jsonl").write_text("")
    with pytest.raises(UserError, match="no response of the first MAX_SAMPLES=200 problems"):
        run(of_existing(knobs, logged_run))


def test_a_broken_line_is_named(knobs, logged_run):
    text = (logged_run / "attempts.jsonl").read_text().splitlines(keepends=True)
    (logged_run / "attempts.jsonl").write_text(text[0] + "{broken\n" + text[1])
    with pytest.raises(UserError, match=r"attempts.jsonl, line 2: not JSON"):
        run(of_existing(knobs, logged_run))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"kind": "response"}', "expected a graded response, found {'kind': 'response'}; delete that line"),
        (b'{"kind": "x"}', "expected a graded response"),
        (b"\xff\xfe{}", "not UTF-8"),
        (None, "expected token ids"),
    ],
)
def test_a_damaged_line_is_named(knobs, logged_run, line, found):
    log = logged_run / "attempts.jsonl"
    first, *others = log.read_bytes().splitlines(keepends=True)
    line = line or json.dumps({**json.loads(others[0]), "y_init_ids": "?"}).encode()
    log.write_bytes(first + line + b"\n" + b"".join(others))
    with pytest.raises(UserError, match=re.escape(f"{log}, line 2: {found}")):
        run(of_existing(knobs, logged_run), "--dry-run")


def test_a_run_with_other_prompts_is_refused(knobs, logged_run):
    run_json = json.loads((logged_run / "run.json").read_text())
    run_json["identity"]["prompt"]["prompt_suffix"] = "Think."
    write_json(logged_run / "run.json", run_json)
    with pytest.raises(UserError, match="was sampled with the prompt settings"):
        run(of_existing(knobs, logged_run))
    run(
        of_existing(knobs, logged_run, prompt_suffix="Think.", max_samples=1)
    )  # as the message says, in that folder


def test_responses_of_another_tokenizer_are_refused(knobs, logged_run, graded, layout):
    line = attempts_line(graded[0], layout)
    line["y_init_ids"] = pack_ids([100_000])
    write_lines(logged_run / "attempts.jsonl", [line])
    with pytest.raises(UserError, match="sampled with another tokenizer"):
        run(of_existing(knobs, logged_run))
