r"""Cleaning: what is cut, what is left alone, and that ids are always those that were sampled."""

import time
from pathlib import Path

import pytest

from quickstart.tokenizer import build_tokenizer
from srt.collect.cleaning import ANSWERS, clean, find_loop
from srt.collect.openings import opening_end
from srt.common.files import read_jsonl
from srt.contract.layout import Layout, PromptFormat
from srt.contract.phrases import PHRASE_SETS
from srt.contract.records import pack_ids, unpack_ids

EOT = 2


@pytest.fixture(scope="module")
def layout():
    tokenizer = build_tokenizer()
    return Layout(tokenizer, PHRASE_SETS["qwen"], PromptFormat(prompt_suffix=""), [EOT])


@pytest.fixture
def new_tuple(layout):
    """new_tuple(y_init, y_revised): each as text or ids; `ended=False` for a y_init cut off by the token limit."""

    def new(y_init="A 1\n\\boxed{8}", y_revised="A 2\n\\boxed{7}", ended=True):
        record = {"x": "x = 1", "cleaned": []}
        for name, y, eot in (("y_init", y_init, [EOT] * ended), ("y_revised", y_revised, [EOT])):
            ids = (layout.tokenizer.encode(y) if isinstance(y, str) else y) + eot
            record |= {name: layout.decode(ids), f"{name}_ids": pack_ids(ids)}
        return record

    return new


@pytest.fixture
def looping(layout):
    """looping(before, piece, times): ids in which the model repeats `piece` token by token."""

    def ids(before, piece, times, after=""):
        encode = layout.tokenizer.encode
        return encode(before) + encode(piece) * times + encode(after)

    return ids


def the_change(cleaned):
    (change,) = cleaned.changes
    return change


def check_ids(layout, before, after, part):
    """The remaining ids decode to the text, and are a part of the sampled ones, plus the end of turn."""
    old, new = (unpack_ids(record[f"{part}_ids"]) for record in (before, after))
    assert layout.decode(new) == after[part]
    assert new == old[-len(new) :] or new == old[: len(new) - 1] + [EOT] or new == old[: len(new)]


# Loops --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "loop"),
    [
        ([9, 8, *[1, 2, 3] * 30], (2, 3)),
        ([9, 8, *[1, 2, 3] * 30, 1, 2], (2, 3)),  # cut off within a round
        ([9, 3, *[1, 2, 3] * 30], (1, 3)),  # the last token of a round also precedes the first one
        ([7] * 60, (0, 1)),
        ([7] * 59, None),  # too few tokens
        ([*range(25)] * 3, None),  # too few rounds
        ([*range(25)] * 4, (0, 25)),
        ([*[1, 2, 3] * 30, 9, 8, 7], (0, 3)),  # with a short tail
        ([*[1, 2, 3] * 30, *range(10, 20)], None),  # it continued with something else
        (list(range(500)), None),
        ([], None),
        ([1], None),
    ],
)
def test_find_loop(y, loop):
    assert find_loop(y) == loop


def test_a_loop_is_cut_after_its_first_round_and_the_change_is_recorded(new_tuple, looping, layout):
    before = new_tuple(y_init=looping("A 1 + 1 = 2\n", "B 2 + 3 = 5.\n", 20), ended=False)
    cleaned = clean(before, layout)
    assert cleaned.tuple["y_init"] == "A 1 + 1 = 2\nB 2 + 3 = 5."
    change = the_change(cleaned)
    assert (change["part"], change["change"]) == ("y_init", "loop cut")
    removed = unpack_ids(before["y_init_ids"])[len(unpack_ids(cleaned.tuple["y_init_ids"])) :]
    assert change["tokens"] == len(removed) and layout.decode(removed).startswith(change["text"])
    assert cleaned.tuple["cleaned"] == cleaned.changes
    check_ids(layout, before, cleaned.tuple, "y_init")


def test_a_loop_that_starts_within_a_sentence_is_cut_at_the_end_of_one(new_tuple, looping, layout):
    """The period before the first round is part of the loop as well, since every round ends with one."""
    cleaned = clean(new_tuple(y_init=looping("B 2.\n", "A 2 + 3 = 5.\n", 20), ended=False), layout)
    assert cleaned.tuple["y_init"] == "B 2.\nA 2 + 3 = 5."


@pytest.mark.parametrize("after", ["", "A 3"])
def test_a_revision_that_repeats_its_answer_keeps_it_and_its_end_of_turn(new_tuple, looping, layout, after):
    before = new_tuple(y_revised=looping("A 3 + 4 = 7\n", "\\boxed{7}\n", 30, after))
    cleaned = clean(before, layout)
    assert cleaned.tuple["y_revised"] == "A 3 + 4 = 7\n\\boxed{7}\n"
    assert unpack_ids(cleaned.tuple["y_revised_ids"])[-1] == EOT
    check_ids(layout, before, cleaned.tuple, "y_revised")


def test_a_graded_response_keeps_its_answer_or_the_tuple_is_dropped(new_tuple, looping, layout):
    kept = clean(new_tuple(y_init=looping("\\boxed{8}\n", "A 1 + 1 = 2\n", 30)), layout)
    assert kept.tuple["y_init"] == "\\boxed{8}\nA 1 + 1 = 2\n"
    # The box closes after the loop: every cut would change the graded answer.
    dropped = clean(new_tuple(y_revised=looping("\\boxed{", "7 + ", 30, "0}")), layout)
    assert dropped.tuple is None
    assert the_change(dropped)["change"] == "dropped, its loop holds the answer"


def test_a_response_cut_off_by_the_limit_was_not_graded_so_the_rest_must_not_contain_an_answer(
    new_tuple, looping, layout
):
    cleaned = clean(new_tuple(y_init=looping("A 3 + 4 = 7\n", "\\boxed{7}\n", 30), ended=False), layout)
    assert cleaned.tuple is None
    assert the_change(cleaned)["change"] == "dropped, its loop holds the answer"


# Openings -----------------------------------------------------------------------------------------------

LABELLED = read_jsonl(Path(__file__).parents[1] / "data" / "openings.jsonl")


@pytest.mark.parametrize("entry", LABELLED, ids=lambda entry: entry["text"][:60].strip())
def test_only_sentences_that_are_wholly_apology_or_greeting_are_stripped(entry):
    assert entry["text"][: opening_end(entry["text"])] == entry["stripped"]


def test_the_labelled_list_is_long_and_has_both_kinds():
    stripped = [entry for entry in LABELLED if entry["stripped"]]
    assert len(LABELLED) >= 400
    assert min(len(stripped), len(LABELLED) - len(stripped)) >= 180
    assert len({entry["text"] for entry in LABELLED}) == len(LABELLED)


@pytest.mark.parametrize(
    "piece", ["sorry again ", "so very sorry ", "no no problem ", "thank you for ", " ", "\n", "hi. "]
)
def test_a_long_opening_takes_no_time(piece):
    """The pattern must not try every way of dividing a loop into clauses."""
    started = time.process_time()
    opening_end(piece * 5000 + "x")
    assert time.process_time() - started < 5


def test_openings_are_stripped_from_revisions_but_not_from_responses(new_tuple, layout):
    opening, work = "You're absolutely right.\n\n", "A 3 + 4 = 7\n\\boxed{7}"
    before = new_tuple(y_init=opening + "\\boxed{8}", y_revised=opening + work)
    cleaned = clean(before, layout)
    assert cleaned.tuple["y_revised"] == work and cleaned.tuple["y_init"] == before["y_init"]
    tokens = len(unpack_ids(before["y_revised_ids"])) - len(unpack_ids(cleaned.tuple["y_revised_ids"]))
    assert the_change(cleaned) == {
        "part": "y_revised",
        "change": "opening stripped",
        "tokens": tokens,
        "text": opening,
    }
    check_ids(layout, before, cleaned.tuple, "y_revised")


def test_an_opening_that_ends_inside_a_token_stays(new_tuple, layout):
    """' 3' is one token, so the rest of 'Sure! 3' would start with the space."""
    before = new_tuple(y_revised="Sure! 3 + 4 = 7\n\\boxed{7}")
    cleaned = clean(before, layout)
    assert cleaned.changes == [] and cleaned.tuple == before


def test_both_at_once(new_tuple, looping, layout):
    revised = looping("I apologize.\n\nA 3 + 4 = 7\n", "\\boxed{7}\n", 30)
    before = new_tuple(y_init=looping("", "A 1\n", 40), y_revised=revised, ended=False)
    cleaned = clean(before, layout)
    assert cleaned.tuple["y_revised"] == "A 3 + 4 = 7\n\\boxed{7}\n"
    assert [change["change"] for change in cleaned.changes] == ["loop cut", "loop cut", "opening stripped"]


def test_a_clean_tuple_is_unchanged_and_nothing_is_modified_in_place(new_tuple, looping, layout):
    before = new_tuple()
    cleaned = clean(before, layout)
    assert cleaned.tuple == before and cleaned.changes == []
    dirty = new_tuple(y_init=looping("", "A 1\n", 40), ended=False)
    copy = dict(dirty)
    assert clean(dirty, layout).changes and dirty == copy


def test_in_code_mode_a_loop_inside_the_program_is_not_cut(new_tuple, looping, layout):
    program = looping("```python\n", "x = 1\n", 40, "```")
    record = new_tuple(y_revised=program)
    cleaned = clean(record, layout, ANSWERS["code"])
    assert cleaned.tuple is None and the_change(cleaned)["change"] == "dropped, its loop holds the answer"
    after_it = looping("```python\nx = 1\n```\n", "A 1\n", 40)
    cleaned = clean(new_tuple(y_revised=after_it), layout, ANSWERS["code"])
    assert cleaned.tuple["y_revised"].startswith("```python\nx = 1\n```\n")
    assert the_change(cleaned)["change"] == "loop cut"
