"""Figure 4, kinds of tokens, copying, the phrase's effect and first errors, on responses made by hand."""

import dataclasses
import math

import numpy as np
import pytest

from opsd.localize.copying import copy_diagnostic
from opsd.localize.first_error import first_error, locate, token_at
from opsd.localize.mass import mass_by_rank
from opsd.localize.phrase_effect import moved_tokens, phrase_effect
from opsd.localize.token_kinds import token_kind
from opsd.localize.token_text import CONTINUES, token_texts
from srt.contract.phrases import PHRASE_SETS
from tests.opsd.helpers.localization import scored

PHRASES = [PHRASE_SETS["qwen"].text(r) for r in (0, 1)]


# Figure 4 -----------------------------------------------------------------------------------------------


def test_mass_by_rank_averages_the_sorted_kl_of_responses():
    responses = [scored("ab", [1.0, 3.0]), scored("abcd", [0.0, 1.0, 0.0, 7.0]), scored("a", [9.0], r=1)]
    wrong = mass_by_rank(responses, 0)
    assert wrong and wrong["responses"] == 2 and wrong["tokens"] == 6
    assert wrong["kl_by_rank"] == [5.0, 1.0, 0.0, 0.0]  # (3 + 7) / 2, (1 + 1) / 2
    assert wrong["kl_per_token"] == pytest.approx(2.0)
    assert wrong["kl_per_response"] == pytest.approx(6.0)
    right = mass_by_rank(responses, 1)
    assert right and right["kl_by_rank"] == [9.0]


def test_the_top_20_tokens_of_a_long_response():
    kl = [1.0] * 10 + [0.1] * 100
    mass = mass_by_rank([scored("x" * 110, kl)], 0)
    assert mass
    assert mass["top_share"] == pytest.approx((10 + 10 * 0.1) / 20)
    assert mass["uniform_share"] == pytest.approx(20 / 110)
    assert mass["top_tenth_share"] == pytest.approx((10 + 1 * 0.1) / 20)


def test_rewards_that_do_not_occur_and_a_kl_of_zero():
    responses = [scored("ab", [0.0, 0.0])]
    assert mass_by_rank(responses, 1) is None and copy_diagnostic(responses, 1) is None
    mass = mass_by_rank(responses, 0)
    assert mass and mass["top_share"] is None and mass["kinds"]["style"]["kl"] == 0


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (" Wait", "style word"),
        ("So", "style word"),
        (" the", "style word"),
        (",", "punctuation"),
        ("\n\n", "punctuation"),
        (" 42", "number"),
        ("3rd", "number"),
        (" +", "operator"),
        ("\\times", "operator"),
        ("=", "operator"),
        (" Mary", "word"),
        ("apples", "word"),
        ("", "punctuation"),
    ],
)
def test_kinds_of_tokens(text, kind):
    assert token_kind(text) == kind


def test_shares_of_kinds_and_of_the_end_of_turn():
    response = scored(["So", " 7", ".", "<|im_end|>"], [1.0, 5.0, 1.0, 3.0])
    mass = mass_by_rank([response], 0, eot_ids=[3])
    assert mass
    kinds = mass["kinds"]
    assert {name for name, kind in kinds.items() if kind["tokens"]} == {
        *("style word", "number", "punctuation", "end of turn", "style", "content"),
    }
    assert kinds["style"] == pytest.approx({"tokens": 0.5, "kl": 0.2, "kl_per_token": 1.0})
    assert kinds["content"]["kl"] == pytest.approx(0.5)
    assert kinds["end of turn"]["kl"] == pytest.approx(0.3)


# Copying ------------------------------------------------------------------------------------------------


def test_copy_shares_by_position_and_the_kl_of_copied_and_changed_tokens():
    ranks = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 5, 1, 1, 1, 1, 1, 1, 1, 1]
    kl = [0.1] * 20
    kl[10], kl[11] = 2.0, 4.0
    copies = copy_diagnostic([scored("x" * 20, kl, teacher_rank=ranks), scored("y", [1.0], r=1)], 0)
    assert copies
    assert copies["copied"] == pytest.approx(0.9)
    assert copies["kl_changed"] == pytest.approx(3.0) and copies["kl_copied"] == pytest.approx(0.1)
    assert copies["kl_share_changed"] == pytest.approx(6 / (6 + 1.8))
    assert copies["by_position"]["copied"] == [1, 1, 1, 1, 1, 0, 1, 1, 1, 1]
    assert copies["by_position"]["kl"][5] == pytest.approx(3.0)
    assert copies["whole_response_copied"] == 0
    right = copy_diagnostic([scored("y", [1.0], r=1)], 1)
    assert right and right["whole_response_copied"] == 1 and right["kl_changed"] is None
    assert right["by_position"]["copied"][1:] == [None] * 9


# The phrase ---------------------------------------------------------------------------------------------


def test_the_effect_of_the_phrase_and_the_tokens_it_moves_most():
    responses = [
        scored(["a", "b", "c"], [1.0, 2.0, 3.0], moved=[0.0, 6.0, 3.0], teacher_rank=[1, 2, 1]),
        scored(["b", "c", "b"], [1.0, 1.0, 1.0], moved=[9.0, 0.0, 3.0], teacher_rank=[1, 1, 2]),
        scored(["c", "d"], [1.0, 1.0], moved=[3.0, 50.0]),  # d: too rare for the table
    ]
    effect = phrase_effect(responses, 0, text_of=lambda token: f"token {token}")
    assert effect and effect["phrase"] == "P_0" and list(effect["kl"]) == ["P_0", "P_1", "none", "neutral"]
    assert effect["kl"]["P_0"] == pytest.approx(11 / 8)
    assert effect["logprob"] == pytest.approx({"P_0": -0.9, "P_1": -1.0, "none": -1.0, "neutral": -1.0})
    assert effect["moved"]["neutral"] == pytest.approx(74 / 8) and "P_0" not in effect["moved"]
    table = effect["moved_tokens"]
    assert [row["token"] for row in table] == ["b", "c"]
    assert table[0]["moved"] == pytest.approx(6.0) and table[0]["count"] == 3
    assert table[0]["share"] == pytest.approx(18 / 74)
    assert table[0]["logprob_change"] == pytest.approx(0.1)
    assert table[0]["instead"] in ("token 1", "token 2") and table[0]["instead_share"] == pytest.approx(2 / 3)
    assert table[1]["instead"] is None


def test_only_rare_tokens_are_better_than_none():
    response = scored(["a"], [1.0], moved=[2.0])
    assert [row["token"] for row in moved_tokens([response], str)] == ["a"]


def test_without_variants_there_is_no_effect_to_show():
    bare = dataclasses.replace(scored("ab", [1.0, 1.0]), variants={})
    assert phrase_effect([bare], 0, str) is None


# First errors -------------------------------------------------------------------------------------------

X = "x = 3 [A] + 4 [B] * 2"
TOKENS = ["A", " 3", " +", " 4", " =", " 8", "\nB", " 8", " *", " 2", " =", " 6", "\n\\boxed{", "6", "}"]
ERROR = 5  # " 8" instead of " 7"


def kl_with_peak(position):
    return [2.0 if index == position else 0.1 for index in range(len(TOKENS))]


@pytest.mark.parametrize(("peak", "at", "near"), [(5, 1, 1), (7, 0, 1), (3, 0, 1), (8, 0, 0), (2, 0, 0)])
def test_a_peak_at_or_near_the_error(peak, at, near):
    found = first_error([scored(TOKENS, kl_with_peak(peak), x=X)], 0, PHRASES, seed=0)
    assert found and (found["errors"], found["at"], found["near"]) == (1, at, near)
    assert found["offsets"] == [peak - ERROR]
    assert found["chance"] == pytest.approx(5 / 15)
    assert found["median_rank"] == (1 if peak == ERROR else 2)


def test_the_share_of_hits_has_an_interval_and_right_steps_do_not_count():
    right = [token.replace("8", "7").replace("6", "4") for token in TOKENS]
    responses = [scored(TOKENS, kl_with_peak(5 if index < 6 else 12), x=X) for index in range(8)]
    responses += [scored(right, kl_with_peak(5), x=X), scored(TOKENS, kl_with_peak(5), r=1, x=X)]
    found = first_error(responses, 0, PHRASES, seed=0)
    assert found and (found["checkable"], found["errors"]) == (9, 8)
    assert found["at"] == found["near"] == 0.75
    low, high = found["near_interval"]
    assert 0.3 < low < 0.75 < high <= 1
    other = first_error(responses, 1, PHRASES, seed=0)
    assert other and other["errors"] == 1


def test_what_the_teacher_does_at_the_error():
    ranks = [1] * len(TOKENS)
    ranks[ERROR] = 2
    responses = [
        scored(TOKENS, kl_with_peak(5), x=X, teacher_rank=ranks),
        scored(TOKENS, kl_with_peak(0), x=X),
    ]
    found = first_error(responses, 0, PHRASES, seed=0)
    assert found
    at_error = found["at_error"]
    assert at_error["copied"] == 0.5
    assert (at_error["kl_changed"], at_error["kl_copied"]) == pytest.approx((2.0, 0.1))
    assert at_error["kl_elsewhere"] == pytest.approx((14 * 0.1 + 13 * 0.1 + 2.0) / 28)
    assert at_error["student_probability"] == pytest.approx(math.exp(-0.7))
    assert at_error["teacher_probability"] == pytest.approx(math.exp(-0.9))


def test_a_peak_in_the_revision_does_not_hide_the_one_before_it():
    tokens = [*TOKENS, f"\n\n{PHRASES[0]}\n\n", *TOKENS]
    kl = [*kl_with_peak(ERROR), 9.0, *[0.1] * len(TOKENS)]
    located = locate(scored(tokens, kl, x=X), PHRASES)
    assert located and located.peak == len(TOKENS) and located.peak_in_attempt == ERROR
    found = first_error([scored(tokens, kl, x=X)], 0, PHRASES, seed=0)
    assert found and (found["near"], found["in_attempt"]["near"]) == (0, 1)


def test_text_without_arithmetic_is_not_counted():
    assert first_error([scored(["no", " idea"], [1.0, 2.0])], 0, PHRASES, seed=0) is None


def test_token_at_finds_the_token_of_a_character():
    tokens = ["ab", "", "c", "def"]
    text = "".join(tokens)
    expected = [0, 0, 2, 3, 3, 3]
    assert [token_at(tokens, position) for position in range(len(text))] == expected
    assert token_at(tokens, len(text)) == len(tokens)


# Texts of tokens ----------------------------------------------------------------------------------------


def test_token_texts_join_to_the_response(layout):
    text = "A 3 + 4 = 7\nB 7 * 2 = 4\n\\boxed{4}"
    ids = layout.tokenizer.encode(text)
    assert "".join(token_texts(layout.tokenizer, ids)) == text


def test_a_character_of_several_tokens_stands_at_the_first(layout):
    ids = layout.tokenizer.encode("A é 漢 1")
    texts = token_texts(layout.tokenizer, ids)
    assert len(texts) == len(ids)
    assert "".join(texts).replace(CONTINUES, "") == "A é 漢 1"
    assert np.sum([text == CONTINUES for text in texts]) >= 3


def test_bytes_that_never_become_a_character_do_not_swallow_what_follows(layout):
    broken = layout.tokenizer.encode("漢")[:1]
    ids = [*broken, *layout.tokenizer.encode("A 3")]
    assert token_texts(layout.tokenizer, ids)[1:] == ["A", " 3"]


class SpaceDropping:
    """As some tokenizers do: the space before a first word is lost when it is decoded alone."""

    words = {0: "\u2581Mary", 1: "\u2581has", 2: "n't"}

    def decode(self, ids):
        return "".join(self.words[index] for index in ids).replace("\u2581", " ").removeprefix(" ")


def test_spaces_survive_tokenizers_that_drop_the_first_one():
    assert token_texts(SpaceDropping(), [0, 1, 2]) == ["Mary", " has", "n't"]
