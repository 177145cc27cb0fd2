"""The experiment in the quickstart's world: its problems, the settings of its rivals, GRPO itself, the table."""

import json
from dataclasses import replace
from functools import partial

import pytest

from experiments.one_gpu import quickstart_world, seeds, trl_baselines
from experiments.one_gpu.budget import budget_of
from experiments.one_gpu.plan import PLAN, Layout, command, load_jobs, problems_of
from experiments.one_gpu.quickstart_world import prepare_world
from experiments.one_gpu.trl_settings import TrlSettings
from quickstart.base_model import BaseTrainingConfig
from quickstart.make_world import make_world
from quickstart.world import Sizes
from srt.common.errors import UserError
from srt.common.files import write_json, write_jsonl
from srt.common.models import load_model
from srt.common.name_values import read_name_values
from srt.config_groups import PromptConfig
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.metrics import AVG_AT_K, ENTROPY, GREEDY_ACCURACY, MAJORITY_AT, MEAN_RESPONSE_TOKENS, PASS_AT, at
from tests.end_to_end.toy_task import MAX_TOKENS, problem_text, save_answering_model

QUICKSTART = PLAN.with_name("quickstart.yaml")


def test_a_plan_names_its_problems(tmp_path):
    plans = (PLAN, QUICKSTART, PLAN.with_name("number_puzzles.yaml"))
    assert [problems_of(path) for path in plans] == ["word_problems", "quickstart", "number_puzzles"]
    (tmp_path / "plan.yaml").write_text("problems: riddles")
    with pytest.raises(UserError, match="problems is riddles, expected one of word_problems, number_puzzles, qu"):
        problems_of(tmp_path / "plan.yaml")


def test_the_world_is_made_once_and_its_training_problems_are_shared_between_the_phases(tmp_path, monkeypatch):
    small = Sizes(train=40, validation=6, heldout=8)
    brief = BaseTrainingConfig(steps=1, drill=1, revision=1, chain=1, warmup=1)
    monkeypatch.setattr(quickstart_world, "make_world", partial(make_world, sizes=small, training=brief))
    layout = Layout(tmp_path, str(tmp_path / "world" / "base"))
    prepare_world(layout, seed=1, slip_probability=0.6)
    assert (tmp_path / "world" / "base" / "config.json").is_file()
    splits = ("train", "distill", "validation", "test")
    problems = {split: layout.problems(split).read_text().splitlines() for split in splits}
    assert [len(lines) for lines in problems.values()] == [10, 30, 6, 8]
    assert not set(problems["train"]) & set(problems["distill"])
    prepare_world(layout, seed=1, slip_probability=0.6)
    with pytest.raises(UserError, match="slip_probability 0.6 instead of 0.4"):
        prepare_world(layout, seed=1, slip_probability=0.4)


def test_knobs_and_seed_reach_a_rival(tmp_path):
    jobs, layout = load_jobs(QUICKSTART, seed="3"), Layout(tmp_path, "BASE")
    assert jobs["srt"].env["SEED"] == jobs["evaluate/srt"].env["SEED"] == "3"
    arguments, _ = command(jobs["grpo"], jobs, layout, "python")
    settings = read_name_values(TrlSettings, arguments[3:], None).completed()
    assert (settings.kind, settings.model, settings.output) == ("grpo", "BASE", tmp_path / "grpo")
    assert (settings.data, settings.seed, settings.sampler) == (layout.problems("train"), 3, "transformers")
    assert (settings.lr, settings.steps, settings.samples_per_step) == (3e-4, 108, 128)
    assert (settings.max_tokens, settings.prompt_suffix) == (80, "")
    word_problems = load_jobs(PLAN)
    arguments, _ = command(word_problems["grpo"], word_problems, layout, "python")
    settings = read_name_values(TrlSettings, arguments[3:], None).completed()
    assert (settings.lr, settings.samples_per_step, settings.prompt_suffix) == (1e-6, 256, None)
    assert (settings.max_tokens, settings.sampler, settings.seed) == (1024, "vllm", 0)
    assert load_jobs(PLAN, seed="3")["srt_seed1"].env["SEED"] == "1"  # the plan's own


def test_grpo_learns_from_the_verdict(tmp_path):
    """The model answers 3 or 7; here only 3 is right."""
    save_answering_model(tmp_path / "base")
    problems = tmp_path / "problems.jsonl"
    lines = [json.dumps({"id": str(n), "problem": problem_text(n), "answer": "3"}) + "\n" for n in range(32)]
    problems.write_text("".join(lines))
    folder = tmp_path / "grpo"
    arguments = {"kind": "grpo", "data": problems, "model": tmp_path / "base", "output": folder, "steps": 12}
    arguments |= {"lr": 1e-3, "problems_per_step": 8, "micro_batch": 32, "max_tokens": MAX_TOKENS, "seed": 1}
    arguments |= {"prompt_suffix": "", "sampler": "transformers"}
    trl_baselines.main([f"{name}={value}" for name, value in arguments.items()])
    log = json.loads((folder / "training_log.json").read_text())
    rewards = [entry["reward"] for entry in log if "reward" in entry]
    assert len(rewards) == 12
    assert rewards[0] < 0.6 < 0.8 * sum(rewards[-3:]) / 3  # a third of the responses is cut off
    write_json(folder / "job.json", {"seconds": 1.0, "gpus": 0})
    budget = budget_of("grpo", load_jobs(PLAN), Layout(tmp_path, str(tmp_path / "base")))
    assert budget.samples == 12 * 8 * 8 and 10 * 768 <= budget.generated_tokens <= MAX_TOKENS * 768


def test_a_response_that_ends_at_the_limit_is_graded(tmp_path):
    """As in collection, where only one without an end of turn counts as cut off."""
    save_answering_model(tmp_path / "base")
    write_jsonl(tmp_path / "problems.jsonl", [{"id": "0", "problem": problem_text(0), "answer": "3"}] * 8)
    layout = layout_of_checkpoint(str(tmp_path / "base"), PromptConfig("math", None, None, "", None))
    ids = layout.tokenizer.encode("\\boxed{3}")
    settings = TrlSettings("grpo", tmp_path / "problems.jsonl", str(tmp_path / "base"), tmp_path, steps=1)
    settings = replace(settings, sampler="transformers", max_tokens=len(ids) + 1).completed()
    trainer = trl_baselines.train_grpo(load_model(settings.model, "float32"), layout, settings)
    completions = [[*ids, layout.eot], [*ids, ids[0]], []]
    rewards = trainer.reward_funcs[0](completions=[], completion_ids=completions, problem_id=["0"] * 3)
    assert rewards == [1.0, 0.0, 0.0]


def results(seed: int, accuracy: float) -> dict:
    """Of the base model and one other, which is right on `accuracy` of the responses."""

    def row(name: str, accuracy: float) -> dict:
        values = {AVG_AT_K: accuracy, GREEDY_ACCURACY: 0.5, at(MAJORITY_AT, 8): 0.25, at(PASS_AT, 8): 1.0}
        values |= {MEAN_RESPONSE_TOKENS: 34.4, ENTROPY: 0.125}
        majority = {part: {"accuracy": accuracy} for part in ("majority_right", "majority_wrong")}
        tasks: dict = {"metrics": {name: {"value": value} for name, value in values.items()}}
        if name != "base":
            tasks["to_base"] = {AVG_AT_K: {"difference": accuracy - 0.4}}
        found = {"name": name, "env": {"LR": "2e-4", "SEED": str(seed)}, "budget": {"samples": 1000 * seed}}
        return found | {"tasks": tasks, "against_majority": majority}

    world = {"seed": seed, "slip_probability": 0.6}
    return {"k": 8, "world": world, "rows": [row("base", 0.4), row("sd_zero", accuracy)]}


def test_results_of_several_seeds_make_one_table(tmp_path, capsys):
    for seed, accuracy in ((1, 0.7), (2, 0.8)):
        write_json(tmp_path / f"{seed}.json", results(seed, accuracy))
    seeds.main([str(tmp_path / "out"), str(tmp_path / "1.json"), str(tmp_path / "2.json")])
    text = (tmp_path / "out" / "quickstart_rivals.md").read_text()
    assert text in capsys.readouterr().out
    assert text.splitlines()[0] == "Slip probability 0.6" and "| seeds 1, 2 |" in text
    row = text.splitlines()[-1]
    assert (
        row == "| sd_zero | 75.0 | 70.0 / 80.0 | +35.0 | 50.0 | 25.0 | 100.0 | 75.0 | 75.0 | 34 | 0.125 | 1,500 |"
    )
    written = (tmp_path / "out" / "quickstart_rivals.json").read_text()
    assert written == seeds.raw_figures({0.6: [results(1, 0.7), results(2, 0.8)]})
    assert (tmp_path / "out" / "quickstart_rivals.png").stat().st_size > 10_000


def test_raw_figures_lose_digits_and_repetitions_only():
    of_seeds = [results(1, 2 / 3), results(2, 0.8)]
    text = seeds.raw_figures({0.6: of_seeds})
    assert len(text.splitlines()) == 3 + 2 + 4  # a line for each method and row
    written = json.loads(text)
    assert written["methods"] == [{"name": name, "env": {"LR": "2e-4"}} for name in ("base", "sd_zero")]
    assert [row["world"]["seed"] for row in written["rows"]] == [1, 1, 2, 2]
    row, expected = written["rows"][1], of_seeds[0]["rows"][1]
    assert row.pop("world") == of_seeds[0]["world"] and row.pop("k") == 8
    expected["tasks"]["metrics"][AVG_AT_K]["value"] = 0.6667
    expected["tasks"]["to_base"][AVG_AT_K]["difference"] = 0.2667
    expected["against_majority"] = {part: {"accuracy": 0.6667} for part in expected["against_majority"]}
    assert row == {key: value for key, value in expected.items() if key != "env"}


def test_results_with_other_rows_are_not_put_together(tmp_path):
    """Rows are put together by their place: a method that is missing would pass its figures on to the next one."""
    other = results(2, 0.8)
    other["rows"][1]["name"] = "rft"
    for seed, found in enumerate((results(1, 0.7), other, {"k": 8, "rows": []}), start=1):
        write_json(tmp_path / f"{seed}.json", found)
    paths = [str(tmp_path / name) for name in ("out", "1.json", "2.json", "3.json")]
    with pytest.raises(UserError, match=r"2.json has the rows base, rft, and .*1.json has base, sd_zero; finish"):
        seeds.main(paths[:3])
    with pytest.raises(UserError, match="3.json: no results of a quickstart's world"):
        seeds.main([paths[0], paths[1], paths[3]])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        ({"kind": "ppo"}, "kind=ppo: expected one of sft, grpo, sdft"),
        ({"kind": "grpo"}, "grpo needs STEPS"),
        ({"kind": "sdft"}, "sdft needs STEPS"),
        (
            {"kind": "grpo", "steps": 1, "problems_per_step": 4, "micro_batch": 24},
            "MICRO_BATCH=24 does not divide",
        ),
        ({"kind": "grpo", "steps": 1, "micro_batch": 512}, "the 256 responses of a step .32 problems, 8 each"),
    ],
)
def test_a_rival_makes_the_steps_that_its_settings_say_or_none(tmp_path, settings, refusal):
    """TRL would make three epochs without a number of steps, and 24 responses a step instead of 32."""
    with pytest.raises(UserError, match=refusal):
        TrlSettings(data=tmp_path, model="base", output=tmp_path, **settings).completed()


def test_results_of_different_knobs_are_not_put_together():
    of_seeds = [results(1, 0.7), results(2, 0.8)]
    of_seeds[1]["rows"][1]["env"]["LR"] = "3e-4"
    with pytest.raises(UserError, match="sd_zero: its knobs are not the same in all results"):
        seeds.raw_figures({0.6: of_seeds})
