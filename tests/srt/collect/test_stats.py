"""The summary of a collection says what was counted how."""

from collections import Counter

from srt.collect.stats import CollectionStats


def test_the_account_adds_up_from_responses_to_written_tuples():
    """Seen by a user as "kept 82, tuples written 80, duplicates 102", which does not explain itself."""
    stats = CollectionStats(responses=400, right=220, kept=82, truncated=8)
    stats.revised = {0: [180, 34, 0], 1: [160, 153, 0]}
    stats.cleaned = Counter({"duplicate": 102, "loop": 7})
    stats.set_aside = Counter({"the prompt is too long": 3})
    assert stats.account(written=80, after_right=50, target=80) == {
        "responses": "400, 220 right (first-try accuracy 55.0%)",
        "revisions": "340, 187 right (18.9% after wrong ones, 95.6% after right ones)",
        "left out of these": "102 duplicates, 3 dropped by cleaning",
        "kept": "82 tuples",
        "written": "80 of these (target: 80), 30 after wrong responses and 50 after right ones",
        "cut off": "2.0% of the responses, which count as wrong",
        "set aside": "3 without a verdict (3 the prompt is too long)",
    }


def test_an_account_of_nothing_has_no_gaps():
    account = CollectionStats().account(written=0, after_right=0, target=6000)
    assert account["revisions"] == "0, 0 right (none sampled)"
    assert account["left out of these"] == "none" and "cut off" not in account
