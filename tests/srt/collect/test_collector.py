"""Collection: the result depends on the samples, not on when they arrive or where a run was killed."""

import json
import random
import tracemalloc

import pytest

from quickstart.tokenizer import build_tokenizer
from srt.collect.attempts import Attempts
from srt.collect.collector import GREEDY, Collector, CollectorConfig
from srt.collect.selection import Selection
from srt.common.files import read_jsonl
from srt.contract.layout import Layout, PromptFormat
from srt.contract.phrases import PHRASE_SETS
from srt.contract.records import Problem, SampleKey, unpack_ids
from srt.contract.seeds import sample_seed
from srt.sampling.base import SamplingConfig
from srt.verifiers.math.grader import MathGrader
from tests.srt.helpers.scripted import ScriptedSampler

PHRASES = PHRASE_SETS["qwen"]
PROBLEMS = [Problem(id=f"p{n}", x=f"x = {n % 10}", answer="7", source="here") for n in range(12)]


@pytest.fixture(scope="module")
def layout():
    tokenizer = build_tokenizer()
    return Layout(tokenizer, PHRASES, PromptFormat(prompt_suffix=""), [tokenizer.eos_token_id])


@pytest.fixture(scope="module")
def grader():
    with MathGrader(num_workers=1, time_limit_seconds=30) as grader:
        yield grader


@pytest.fixture
def collect(layout, grader, tmp_path):
    """collect(name): runs a collection in `tmp_path`/name and returns it with its sampler."""

    def run(name, problems=PROBLEMS, order=0, model=None, target=None, right_share=None, **changes):
        config = {
            "num_responses": 2,
            "num_revisions": 2,
            "revise": frozenset({0}),
            "revise_truncated": True,
            "max_tokens": 50,
            "max_model_len": 500,
            "max_in_flight": 4,
            "seed": 0,
            "selection": Selection(target, right_share) if target else None,
        }
        sampler = ScriptedSampler(layout, order, **model or {})
        collector = Collector(
            problems, layout, sampler, grader, CollectorConfig(**config | changes), tmp_path / name
        )
        collector.run()
        collector.close()
        while grader.pending:  # what was in flight when the target was reached
            list(grader.poll(timeout=1.0))
        return collector, sampler

    return run


def keys_of_line(line):
    return (line["problem_idx"], line["response_idx"], line.get("revision_idx"))


def keys_of(path):
    return [keys_of_line(line) for line in read_jsonl(path)]


# What is sampled ----------------------------------------------------------------------------------------


def test_every_sample_is_requested_once_with_its_seed_and_prompt(collect, layout):
    collector, sampler = collect("run", revise=frozenset({0, 1}), seed=5)
    requests = dict(sampler.requests)
    assert len(requests) == len(sampler.requests) == 12 * 2 * (1 + 2)
    for (problem, response, revision), request in requests.items():
        chat = layout.chat(PROBLEMS[problem].x)
        part = "init" if revision is None else revision
        assert request.seed == sample_seed(5, PROBLEMS[problem].id, response, part)
        assert request.group == problem  # so that its samples share one engine's prefix cache
        if revision is None:
            assert request.prompt_ids == chat
        else:
            y_init = collector.attempts.response(SampleKey(problem, response))
            assert request.prompt_ids == layout.revision_prompt(chat, unpack_ids(y_init.y_init_ids), y_init.r)


def revisions_of(collector):
    return [collector.attempts.revision(key) for key in collector.attempts.revisions]


def test_only_the_requested_rewards_are_revised_each_with_its_phrase(collect):
    wrong_only, _ = collect("wrong", revise=frozenset({0}))
    both, _ = collect("both", revise=frozenset({0, 1}))
    none, _ = collect("none", revise=frozenset())
    assert {r.p_r for r in revisions_of(wrong_only)} == {PHRASES.wrong}
    assert not none.attempts.revisions
    for revision in revisions_of(both):
        assert revision.p_r == PHRASES.text(both.attempts.responses[revision.key.response_key].r)
    assert {r.p_r for r in revisions_of(both)} == {PHRASES.wrong, PHRASES.right}


def test_tuples_are_the_revisions_that_verify_in_problem_order(collect):
    collector, _ = collect("run", revise=frozenset({0, 1}))
    tuples = collector.tuples()
    kept = [r for r in collector.attempts.revisions.values() if r.correct]
    assert len(tuples) == len(kept) == collector.stats.kept > 5
    assert collector.stats.summary()["right_revisions"] == len(kept) < len(collector.attempts.revisions)
    assert all(t["y_revised_correct"] and "\\boxed{7}" in t["y_revised"] for t in tuples)
    places = [(int(t["id"][1:]), t["response_idx"], t["revision_idx"]) for t in tuples]
    assert places == sorted(places)


def test_a_truncated_response_is_wrong_and_its_revision_is_optional(collect):
    collector, _ = collect("revised", model={"right_share": 1.0, "truncated_share": 0.5})
    truncated = [collector.attempts.response(r.key) for r in collector.attempts.responses.values() if r.truncated]
    assert 0 < len(truncated) < 24
    assert all(r.r == 0 and "\\boxed{7}" in r.y_init for r in truncated)  # right, had it been graded
    assert {key[:2] for key in collector.attempts.revisions} == {r.key[:2] for r in truncated}
    cut = [revision.truncated for revision in collector.attempts.revisions.values()]
    assert 0 < sum(cut) < len(cut)
    summary = collector.stats.summary()
    assert summary["truncated_share"] == round(len(truncated) / 24, 4)
    assert summary["revisions_truncated_r0"] == round(sum(cut) / len(cut), 4)
    assert summary["revisions_truncated_r1"] is None
    model = {"right_share": 1.0, "truncated_share": 0.5}
    left_alone, _ = collect("left", model=model, revise_truncated=False)
    assert not left_alone.attempts.revisions


def test_no_more_than_max_in_flight_problems_are_in_flight(collect):
    assert collect("run", max_in_flight=3)[1].most_waiting <= 3


# What is set aside --------------------------------------------------------------------------------------


def test_a_prompt_that_leaves_no_room_is_set_aside_and_counted(collect, layout, tmp_path):
    problems = [PROBLEMS[0], Problem(id="long", x="word " * 300, answer="7"), PROBLEMS[1]]
    collector, _ = collect("run", problems)
    assert {key[0] for key in collector.attempts.responses} == {0, 2}
    assert collector.stats.set_aside == {"the prompt is too long": 2}
    assert collector.stats.summary()["set_aside_by_reason"] == {"the prompt is too long": 2}
    lines = read_jsonl(tmp_path / "run" / "set_aside.jsonl")
    assert [line["id"] for line in lines] == ["long", "long"] and "the model accepts 500" in lines[0]["reason"]


def test_the_response_gets_the_room_that_the_prompt_leaves(collect, layout):
    prompt = len(layout.chat(PROBLEMS[0].x))
    _, sampler = collect("run", PROBLEMS[:1], max_model_len=prompt + 20, revise=frozenset())
    assert {request.max_tokens for _, request in sampler.requests} == {20}


def test_a_gold_answer_that_cannot_be_compared_gives_no_verdict_and_is_not_retried(collect, tmp_path):
    problems = [PROBLEMS[0], Problem(id="odd", x="x = 1", answer=r"\frac{1}{0}"), PROBLEMS[1]]
    collector, _ = collect("run", problems)
    assert {key[0] for key in collector.attempts.responses} == {0, 2}
    assert {key[0] for key in collector.attempts.revisions} <= {0, 2}
    reasons = {line["reason"] for line in read_jsonl(tmp_path / "run" / "set_aside.jsonl")}
    assert all(reason.startswith("the verifier broke") for reason in reasons)
    again, sampler = collect("run", problems)
    assert sampler.requests == [] and again.stats.set_aside == {"unreadable gold": 2}


# Cleaning -----------------------------------------------------------------------------------------------

REPETITIVE = {
    "variety": 2,
    "loop_share": 0.3,
}  # problems n and n + 10 share a text, so tuples can be equal


def texts(tuples):
    return [(t["x"], t["y_init"], t["y_revised"]) for t in tuples]


def test_of_equal_tuples_the_first_in_problem_order_is_kept(collect):
    raw, _ = collect("raw", model={"variety": 1})
    cleaned, _ = collect("cleaned", model={"variety": 1}, clean=True)
    first = dict(zip(texts(reversed(raw.tuples())), reversed(raw.tuples()), strict=True))
    assert texts(cleaned.tuples()) == list(dict.fromkeys(texts(raw.tuples())))
    assert cleaned.tuples() == [first[text] for text in texts(cleaned.tuples())]
    removed = len(raw.tuples()) - len(cleaned.tuples())
    assert removed > 1 and cleaned.stats.cleaned == {"duplicate": removed}
    assert cleaned.stats.kept == len(cleaned.tuples()) < cleaned.stats.summary()["right_revisions"]


def test_tuples_are_cleaned_and_the_log_is_not(collect, layout, tmp_path):
    cleaned, _ = collect("cleaned", model=REPETITIVE, clean=True)
    collect("raw", model=REPETITIVE)
    log, raw_log = (sorted(keys_and_ids(tmp_path / name)) for name in ("cleaned", "raw"))
    assert log == raw_log
    for tuple_ in cleaned.tuples():
        for part in ("y_init", "y_revised"):
            assert tuple_[part].count("B 1.") < 3
            assert layout.decode(unpack_ids(tuple_[f"{part}_ids"])) == tuple_[part]
        assert bool(tuple_["cleaned"]) == ("B" in tuple_["y_init"] + tuple_["y_revised"])
    assert cleaned.stats.summary()["cleaned"].keys() == {"duplicate", "loop cut"}


def keys_and_ids(folder):
    lines = read_jsonl(folder / "attempts.jsonl")
    return [(str(keys_of_line(line)), line.get("y_init_ids"), line.get("y_revised_ids")) for line in lines]


@pytest.mark.parametrize("target", [None, 1, 4, 6])
@pytest.mark.parametrize(("order", "max_in_flight"), [(1, 1), (2, 4), (4, 100)])
def test_cleaned_tuples_do_not_depend_on_scheduling(collect, target, order, max_in_flight):
    everything = collect("all", model=REPETITIVE, clean=True)[0].tuples()
    collector, _ = collect(
        "run", order=order, max_in_flight=max_in_flight, model=REPETITIVE, clean=True, target=target
    )
    assert len(everything) > 6 and collector.tuples() == everything[:target]


def test_equal_tuples_of_several_problems_count_once_towards_the_target(collect, tmp_path):
    """All problems share one text, and the log has the later ones first: earlier problems take over tuples."""
    problems = [Problem(id=f"p{n}", x="x = 1", answer="7") for n in range(12)]
    model = {"variety": 3}
    whole, _ = collect("whole", problems, model=model, clean=True)
    everything = whole.tuples()
    last = int(everything[-1]["id"][1:])
    lines = sorted(read_jsonl(tmp_path / "whole" / "attempts.jsonl"), key=lambda line: -line["problem_idx"])
    assert whole.stats.cleaned["duplicate"] > 0 and last < 11
    (tmp_path / "run").mkdir()
    without_last = [json.dumps(line) + "\n" for line in lines if line["problem_idx"] != last]
    (tmp_path / "run" / "attempts.jsonl").write_text("".join(without_last))
    run, _ = collect("run", problems, model=model, clean=True, max_in_flight=1, target=len(everything))
    assert run.tuples() == everything


def test_cleaning_can_be_switched_off_and_on_again_with_the_same_log(collect):
    first, _ = collect("run", model=REPETITIVE, clean=True)
    raw, sampler = collect("run", clean=False)
    again, sampler_again = collect("run", clean=True)
    assert sampler.requests == sampler_again.requests == []
    assert len(raw.tuples()) == raw.stats.kept > first.stats.kept and not raw.stats.cleaned
    assert again.tuples() == first.tuples()
    assert json.dumps(first.stats.summary()) == json.dumps(again.stats.summary())


# Stopping and continuing --------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [None, 1, 7])
@pytest.mark.parametrize(("order", "max_in_flight"), [(1, 1), (2, 4), (3, 12), (4, 100)])
def test_the_tuples_do_not_depend_on_scheduling(collect, target, order, max_in_flight):
    everything = collect("all")[0].tuples()
    collector, _ = collect("run", order=order, max_in_flight=max_in_flight, target=target)
    assert collector.tuples() == everything[:target]


@pytest.mark.parametrize(("order", "max_in_flight"), [(0, 1), (1, 4), (2, 12)])
def test_the_problems_that_count_as_used_do_not_depend_on_scheduling(collect, order, max_in_flight):
    limited, _ = collect("limited", order=order, max_in_flight=max_in_flight, target=5)
    last = limited.tuples()[-1]["id"]
    assert [problem.id for problem in limited.consumed()] == [p.id for p in PROBLEMS[: int(last[1:]) + 1]]
    assert len(limited.consumed()) < len(PROBLEMS)
    unlimited, _ = collect("unlimited", order=order, max_in_flight=max_in_flight, target=1000)
    assert unlimited.consumed() == PROBLEMS


BOTH = {"revise": frozenset({0, 1}), "model": {"right_share": 0.5}}


@pytest.mark.parametrize(("target", "share"), [(8, 0.5), (8, 0.25), (6, 0.0), (6, 1.0)])
@pytest.mark.parametrize(("order", "max_in_flight"), [(0, 1), (1, 12)])
def test_a_share_of_right_responses_takes_the_first_of_each_kind(collect, target, share, order, max_in_flight):
    everything = collect("reference", **BOTH)[0].tuples()
    collector, sampler = collect(
        "run", order=order, max_in_flight=max_in_flight, target=target, right_share=share, **BOTH
    )
    tuples = collector.tuples()
    for right, count in ((True, round(share * target)), (False, target - round(share * target))):
        of_kind = [tuple_ for tuple_ in everything if tuple_["y_init_correct"] is right]
        assert len(of_kind) > count
        assert [tuple_ for tuple_ in tuples if tuple_["y_init_correct"] is right] == of_kind[:count]
    assert tuples == [tuple_ for tuple_ in everything if tuple_ in tuples]  # in problem order
    if max_in_flight == 1:  # and no problem after the last one is sampled
        assert max(key.problem for key, _ in sampler.requests) + 1 == len(collector.consumed())


def test_a_share_that_cannot_be_filled_is_kept_with_fewer_tuples(collect):
    everything = collect("reference", **BOTH)[0].tuples()
    wrong = sum(not tuple_["y_init_correct"] for tuple_ in everything)
    collector, _ = collect("run", target=1000, right_share=0.25, **BOTH)
    tuples = collector.tuples()
    assert sum(not tuple_["y_init_correct"] for tuple_ in tuples) == wrong
    assert sum(tuple_["y_init_correct"] for tuple_ in tuples) == round(0.25 * len(tuples)) == len(tuples) - wrong
    assert collector.consumed() == PROBLEMS


def test_a_target_that_is_reached_leaves_later_problems_alone(collect):
    _, sampler = collect("run", target=1, max_in_flight=1)
    assert max(key[0] for key, _ in sampler.requests) < 11


@pytest.mark.parametrize("target", [None, 5])
def test_a_run_cut_off_anywhere_continues_without_losing_or_repeating_anything(collect, tmp_path, target):
    whole, _ = collect("whole", target=target)
    log = (tmp_path / "whole" / "attempts.jsonl").read_bytes()
    for cut in random.Random(0).sample(range(len(log)), 8):
        name = f"cut{cut}"
        (tmp_path / name).mkdir()
        (tmp_path / name / "attempts.jsonl").write_bytes(log[:cut])
        complete = log[:cut].count(b"\n")
        resumed, sampler = collect(name, target=target, order=cut, max_in_flight=3)
        keys = keys_of(tmp_path / name / "attempts.jsonl")
        assert resumed.tuples() == whole.tuples()
        assert len(keys) == len(set(keys))
        assert not {key for key, _ in sampler.requests} & set(keys[:complete])


def test_a_finished_run_samples_nothing_and_a_higher_target_continues_it(collect, tmp_path):
    first, _ = collect("run", target=3)
    again, sampler = collect("run", target=3)
    assert again.tuples() == first.tuples() and sampler.requests == []
    more, _ = collect("run", target=6)
    assert more.tuples()[:3] == first.tuples() and len(more.tuples()) == 6
    keys = keys_of(tmp_path / "run" / "attempts.jsonl")
    assert len(keys) == len(set(keys))


def test_counts_are_the_same_after_a_restart(collect):
    first, _ = collect("run")
    again, _ = collect("run")
    assert json.dumps(first.stats.summary()) == json.dumps(again.stats.summary())
    assert first.stats.summary()["first_try_accuracy"] == pytest.approx(
        sum(r.r for r in first.attempts.responses.values()) / 24, abs=1e-4
    )


def test_memory_holds_places_and_not_texts(collect, layout, tmp_path):
    """Far less than the log: a million attempts of 10 kB must be restored in under 2 GB."""
    problems = [Problem(id=f"p{n}", x="x = 1", answer="7") for n in range(300)]
    run, _ = collect("small", problems, target=None)
    lines = read_jsonl(tmp_path / "small" / "attempts.jsonl")
    (tmp_path / "run").mkdir()
    padded = [
        {
            name: text + " " * 5000 if name.startswith("y_") and name.count("_") == 1 else text
            for name, text in line.items()
        }
        for line in lines
    ]
    (tmp_path / "run" / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in padded))
    tracemalloc.start()
    attempts = Attempts(tmp_path / "run", problems, layout, cleaning=False)
    remains, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    count = len(attempts.responses) + len(attempts.revisions)
    assert count == len(lines) > 900 and attempts.stats.kept == run.stats.kept > 100
    assert highest / count < 1000  # bytes; a line has more than 5000
    assert attempts.tuples(attempts.kept.in_order())[0]["y_init"].endswith(" " * 5000)


# For evaluation -----------------------------------------------------------------------------------------


def test_a_greedy_response_per_problem_which_is_not_revised(collect):
    greedy = SamplingConfig(0.0, 1.0, (2,))
    collector, sampler = collect("greedy", greedy=greedy, revise=frozenset({0, 1}))
    of_greedy = [request for key, request in sampler.requests if key.response == GREEDY]
    assert [request.sampling for request in of_greedy] == [greedy] * len(PROBLEMS)
    assert all(request.sampling is None for key, request in sampler.requests if key.response != GREEDY)
    assert len(collector.attempts.responses) == 3 * len(PROBLEMS)
    assert all(key.response != GREEDY for key in collector.attempts.revisions)
    again, sampler = collect("greedy", greedy=greedy, revise=frozenset({0, 1}))
    assert not sampler.requests and again.attempts.responses == collector.attempts.responses


@pytest.mark.parametrize("cue", [None, 0, 1])
def test_the_phrase_of_revisions_may_be_the_same_for_all(collect, layout, tmp_path, cue):
    _, sampler = collect("cue", cue=cue, revise=frozenset({0, 1}))
    lines = read_jsonl(tmp_path / "cue" / "attempts.jsonl")
    reward = {keys_of_line(line): int(line["y_init_correct"]) for line in lines if line["kind"] == "response"}
    assert set(reward.values()) == {0, 1}
    prompts = {key: request.prompt_ids for key, request in sampler.requests}
    for line in lines:
        if line["kind"] == "revision":
            r = reward[line["problem_idx"], line["response_idx"], None] if cue is None else cue
            assert line["p_r"] == PHRASES.text(r)
            ids = prompts[SampleKey(*keys_of_line(line))]
            assert ids[-len(layout.cue(r)) :] == layout.cue(r)


def test_log_probs_are_logged_when_asked_for(collect, tmp_path):
    for asked in ("all", "first", "none"):
        _, sampler = collect(asked, log_logprobs=asked)
        requested = {key: request.logprobs for key, request in sampler.requests}
        for line in read_jsonl(tmp_path / asked / "attempts.jsonl"):
            key = SampleKey(*keys_of_line(line))
            expected = asked == "all" or (asked == "first" and key[1:] == (0, None))
            part = "y_init_logprob" if key.revision is None else "y_revised_logprob"
            assert (line[part] is not None) == requested[key] == expected, (asked, key)
