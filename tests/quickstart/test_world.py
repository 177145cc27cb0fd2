"""The world of the quickstart: correct answers, disjoint splits, slips at the stated rate, a base model."""

import itertools
import json
import random
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from quickstart.base_model import IGNORE, BaseTrainingConfig, Layout, documents, save_checkpoint, train_base
from quickstart.make_world import make_world
from quickstart.phrases import PHRASE_SET, PHRASES
from quickstart.tokenizer import END, build_tokenizer
from quickstart.world import BASE_CLASSES, Sizes, World, draw_problem, is_correct, make_splits, split_class
from srt.common.errors import UserError
from srt.contract.layout import Layout as PipelineLayout
from srt.contract.layout import PromptFormat

SMALL = Sizes(train=300, validation=20, heldout=40)
BRIEF = BaseTrainingConfig(steps=3, drill=2, revision=2, chain=1, warmup=1)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_answers_agree_with_an_independent_evaluation():
    for problem in make_splits(World(0), SMALL)["train"]:
        words = problem.text.split()
        value = int(words[2])
        for op, operand in zip(words[4::3], words[5::3], strict=True):
            value = {"+": value + int(operand), "-": value - int(operand), "*": value * int(operand)}[op]
        assert problem.answer == str(value % 10)  # modulo once at the end, unlike in the world's own steps
        assert World(0).solution(problem).endswith(f"\\boxed{{{problem.answer}}}")


def test_splits_are_disjoint_and_belong_to_their_classes():
    splits = make_splits(World(3), SMALL)
    texts = {name: {p.text for p in problems} for name, problems in splits.items()}
    assert {name: len(unique) for name, unique in texts.items()} == {"train": 300, "validation": 20, "heldout": 40}
    for a, b in itertools.combinations(texts.values(), 2):
        assert not a & b
    assert {split_class(p) for p in splits["train"] + splits["validation"]} == {2}
    assert {split_class(p) for p in splits["heldout"]} == {3}


def test_a_seed_determines_the_world_and_seeds_differ():
    assert make_splits(World(1), SMALL) == make_splits(World(1), SMALL)
    assert World(1).wrong_value == World(1).wrong_value
    assert make_splits(World(1), SMALL) != make_splits(World(2), SMALL)
    assert World(1).wrong_value != World(2).wrong_value


def test_hard_facts_slip_at_the_stated_rate_to_their_fixed_wrong_value():
    world, rng = World(0), random.Random(0)
    assert len(world.wrong_value) == 100
    shown = slips = 0
    for _ in range(2000):
        for line in world.attempt(draw_problem(rng), rng).splitlines()[:-1]:
            _, state, op, operand, _, result = line.split()
            fact = (int(state), op, int(operand))
            right = {"+": fact[0] + fact[2], "-": fact[0] - fact[2], "*": fact[0] * fact[2]}[op] % 10
            if int(result) != right:
                assert world.wrong_value[fact] == int(result)
                slips += 1
            shown += fact in world.wrong_value
    assert abs(slips / shown - 0.40) < 0.03


def test_revisions_repair_and_keep():
    world, rng = World(0), random.Random(0)
    problem = draw_problem(rng)
    wrong = next(t for t in (world.attempt(problem, rng) for _ in range(1000)) if not is_correct(t, problem))
    right = world.solution(problem)
    assert world.revision(problem, wrong, 0, rng, repair_probability=1.0, keep_probability=0.0) == right
    assert world.revision(problem, right, 1, rng, repair_probability=0.0, keep_probability=1.0) == right


@pytest.mark.parametrize(
    "text",
    [
        "x = 3 [A] + 4",
        "  two  spaces \t\n\n\n",
        "naïve Ünïcode 数学 🙂",
        "\\boxed{-1/2}.",
        "12345 a_b [AB]",
        "\x00\x7f",
    ],
)
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_text_of_the_world_is_short(tokenizer):
    layout, problem = Layout(tokenizer), draw_problem(random.Random(0))
    assert len(layout.ids(problem.text)) == 18
    assert len(layout.ids(World(0).solution(problem))) == 33
    assert {r: tokenizer.decode(cue) for r, cue in layout.cues.items()} == {
        r: f"\n\n{phrase}\n\n" for r, phrase in PHRASES.items()
    }


def test_the_training_text_has_the_layout_of_the_pipeline(tokenizer):
    eot_ids = [tokenizer.eos_token_id]
    pipeline = PipelineLayout(tokenizer, PHRASE_SET, PromptFormat(prompt_suffix=""), eot_ids)
    stream = documents(World(0), Layout(tokenizer), BaseTrainingConfig(drill=1, revision=20, chain=3))
    _, revisions, chains = next(stream)
    for ids, labels in revisions:
        text = tokenizer.decode(ids)
        x, y, revised, r = split_revision(text)
        assert ids == [
            *pipeline.revision_prompt(pipeline.chat(x), tokenizer.encode(y), r),
            *tokenizer.encode(revised + END),
        ]
        supervised = tokenizer.decode([label for label in labels if label != IGNORE])
        assert supervised == y + END + revised + END
    for ids, labels in chains:
        supervised = [label for label in labels if label != IGNORE]
        assert ids[-len(supervised) :] == supervised
        assert tokenizer.decode(ids).count(PHRASES[0]) == tokenizer.decode(ids).count(PHRASES[1]) == 1


def split_revision(text):
    pattern = r"<START>user\n(.*)<END>\n<START>assistant\n(.*)\n\n(.*)\n\n(.*)<END>"
    pattern = pattern.replace("<START>", r"<\|im_start\|>").replace("<END>", r"<\|im_end\|>")
    x, y, phrase, revised = re.fullmatch(pattern, text, re.DOTALL).groups()
    return x, y, revised, next(r for r in PHRASES if PHRASES[r] == phrase)


def test_the_base_model_never_sees_a_problem_of_later_phases(tokenizer, monkeypatch):
    from quickstart import base_model

    seen = []
    stream = base_model.problem_stream

    def recording(rng, classes):
        for problem in stream(rng, classes):
            seen.append(problem)
            yield problem

    monkeypatch.setattr(base_model, "problem_stream", recording)
    list(itertools.islice(documents(World(0), Layout(tokenizer), BaseTrainingConfig()), 20))
    assert len(seen) > 500
    assert {split_class(p) for p in seen} == set(BASE_CLASSES)


def test_the_checkpoint_loads_with_transformers(tmp_path):
    model, tokenizer = train_base(World(0), BRIEF)
    save_checkpoint(model, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    loaded_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.config.model_type == "qwen3"
    assert (
        loaded.generation_config.eos_token_id
        == loaded_tokenizer.eos_token_id
        == loaded_tokenizer.convert_tokens_to_ids(END)
    )
    assert loaded_tokenizer.pad_token_id not in (None, loaded_tokenizer.eos_token_id)
    problem = draw_problem(random.Random(0))
    prompt = Layout(loaded_tokenizer).chat(problem)
    assert prompt == Layout(tokenizer).chat(problem)
    with torch.no_grad():
        ids = torch.tensor([prompt])
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


def test_making_a_world_twice_does_nothing_and_a_different_one_is_refused(tmp_path):
    assert make_world(tmp_path, World(0), SMALL, BRIEF)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert not make_world(tmp_path, World(0), SMALL, BRIEF)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match="seed 0 instead of 1"):
        make_world(tmp_path, World(1), SMALL, BRIEF)
    problems = [json.loads(line) for line in (tmp_path / "data" / "heldout.jsonl").read_text().splitlines()]
    assert len(problems) == 40 and set(problems[0]) == {"id", "problem", "answer"}


def test_a_world_interrupted_between_two_moves_is_completed(tmp_path):
    make_world(tmp_path, World(0), SMALL, BRIEF)
    unfinished = tmp_path / ".unfinished"
    unfinished.mkdir()
    for part in ("base", "world.json"):
        (tmp_path / part).rename(unfinished / part)
    assert not make_world(tmp_path, World(0), SMALL, BRIEF)
    assert (tmp_path / "base" / "config.json").exists() and not unfinished.exists()


def test_files_from_elsewhere_are_left_alone(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(
        UserError, match="data already exists and was not created by this script; choose another folder"
    ):
        make_world(tmp_path, World(0), SMALL, BRIEF)
