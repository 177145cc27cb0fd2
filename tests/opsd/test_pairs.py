"""Rollout -> rows -> micro-batches."""

import pytest

from opsd.pairs import build_pair, micro_batches
from srt.contract.layout import predicting_positions

LONG = "A 1 + 1 = 2\nB 2 + 1 = 3\nC 3 + 1 = 4\n\\boxed{4}"


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
@pytest.mark.parametrize("r", [0, 1])
def test_both_rows_supervise_exactly_y(make_rollout, layout, r, finish_reason):
    rollout = make_rollout(LONG, r, finish_reason=finish_reason)
    pair = build_pair(rollout, layout, max_teacher_tokens=1000)
    assert pair.targets == rollout.y
    assert pair.student.ids[pair.student.start :] == pair.teacher.ids[pair.teacher.start :] == rollout.y


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_student_reads_the_prompt_alone_and_teacher_reads_y_and_the_cue_of_its_reward(
    make_rollout, layout, finish_reason
):
    phrases = {
        0: "\n\nWait, this response is wrong. Let me correct it.\n\n",
        1: "\n\nLet me rephrase the above solution.\n\n",
    }
    for r, phrase in phrases.items():
        rollout = make_rollout(LONG, r, finish_reason=finish_reason)
        pair = build_pair(rollout, layout, max_teacher_tokens=1000)
        said = layout.tokenizer.encode(LONG)  # without an end of turn, which would close the assistant's turn
        cue = layout.tokenizer.encode(phrase)
        assert pair.student.ids[: pair.student.start] == rollout.chat
        assert pair.teacher.ids[: pair.teacher.start] == rollout.chat + said + cue


@pytest.mark.parametrize("r", [0, 1])
@pytest.mark.parametrize(("teacher_cue", "told"), [("verdict", None), ("0", 0), ("1", 1)])
def test_the_teacher_is_told_the_verdict_or_in_a_control_always_the_same(
    make_rollout, layout, teacher_cue, told, r
):
    rollout = make_rollout(LONG, r)
    pair = build_pair(rollout, layout, 1000, teacher_cue)
    said = layout.tokenizer.encode(LONG)
    assert pair.teacher.ids == rollout.chat + said + layout.cue(r if told is None else told) + rollout.y
    assert pair.student == build_pair(rollout, layout, 1000).student


def test_without_a_phrase_the_teacher_reads_y_and_a_blank_line(make_rollout, layout):
    rollout = make_rollout(LONG)
    pair = build_pair(rollout, layout, 1000, "none")
    said, blank = layout.tokenizer.encode(LONG), layout.tokenizer.encode("\n\n")
    assert pair.teacher.ids == rollout.chat + said + blank + rollout.y
    assert pair.targets == rollout.y


def test_a_random_cue_is_a_fair_coin_that_falls_the_same_way_for_the_same_response_and_seed(make_rollout, layout):
    rollouts = [make_rollout(f"{LONG[: 3 + index]} {index}", r=0) for index in range(40)]

    def told(seed):
        cues = [build_pair(rollout, layout, 1000, "random", seed).teacher.ids for rollout in rollouts]
        wrong = [build_pair(rollout, layout, 1000, "0").teacher.ids for rollout in rollouts]
        return [ids == other for ids, other in zip(cues, wrong, strict=True)]

    assert told(1) == told(1) != told(2)
    assert 10 < sum(told(1)) < 30


def test_predicting_positions_stand_one_before_the_tokens_of_y_in_both_rows(make_rollout, layout):
    pair = build_pair(make_rollout(LONG), layout, max_teacher_tokens=1000)
    for row in (pair.student, pair.teacher):
        assert [row.ids[position + 1] for position in predicting_positions(row)] == pair.targets


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_y_is_shortened_for_both_alike_only_when_the_teacher_row_is_too_long(make_rollout, layout, finish_reason):
    rollout = make_rollout(LONG, finish_reason=finish_reason)
    whole = build_pair(rollout, layout, max_teacher_tokens=1000)
    longest = len(whole.teacher.ids)
    assert build_pair(rollout, layout, max_teacher_tokens=longest) == whole
    for budget in range(len(rollout.chat) + len(layout.cue(0)) + 2, longest):
        pair = build_pair(rollout, layout, max_teacher_tokens=budget)
        assert budget - 1 <= len(pair.teacher.ids) <= budget  # y stands in it twice
        assert 0 < len(pair.targets) < len(rollout.y)
        assert pair.targets == rollout.y[: len(pair.targets)]
        assert pair.teacher.ids[pair.teacher.start :] == pair.targets


def test_a_teacher_budget_without_room_for_y_leaves_nothing_to_supervise(make_rollout, layout):
    pair = build_pair(make_rollout(LONG), layout, max_teacher_tokens=8)
    assert pair.targets == []


def pairs_of_lengths(make_rollout, layout, lengths):
    text = "1 " * max(lengths)
    rollouts = [make_rollout(text[: 2 * length - 1]) for length in lengths]
    return [build_pair(rollout, layout, max_teacher_tokens=10_000) for rollout in rollouts]


@pytest.mark.parametrize("tokens", [1, 100, 200, 333, 100_000])
def test_every_pair_is_in_exactly_one_micro_batch(make_rollout, layout, tokens):
    pairs = pairs_of_lengths(make_rollout, layout, [9, 2, 30, 2, 17, 9, 1])
    batched = [pair for batch in micro_batches(pairs, tokens) for pair in batch]
    assert sorted(map(id, batched)) == sorted(map(id, pairs))


@pytest.mark.parametrize("tokens", [100, 200, 333])
def test_a_micro_batch_keeps_to_its_budget_padding_included(make_rollout, layout, tokens):
    pairs = pairs_of_lengths(make_rollout, layout, [9, 2, 30, 2, 17, 9, 1])
    batches = list(micro_batches(pairs, tokens))
    assert max(len(batch) for batch in batches) > 1
    for batch in batches:
        width = max(len(pair.teacher.ids) for pair in batch)
        assert len(batch) * width <= tokens or len(batch) == 1


def test_a_pair_beyond_the_budget_comes_alone(make_rollout, layout):
    pairs = pairs_of_lengths(make_rollout, layout, [2, 90, 2])
    short, long = len(pairs[0].teacher.ids), len(pairs[1].teacher.ids)
    assert [len(batch) for batch in micro_batches(pairs, 2 * short)] == [2, 1]
    assert 2 * short < long


def test_no_pairs_make_no_micro_batch():
    assert list(micro_batches([], 100)) == []
