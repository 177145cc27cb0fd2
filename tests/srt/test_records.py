"""Records: what a log line and a tuple hold."""

import json

import pytest

from srt.records import TUPLE_FIELDS, Response, Revision, as_line, as_tuple, from_line

RESPONSE = Response(
    problem_idx=3, response_idx=1, id="p3", source="set", x="x\u2028?", ground_truth="7", y_init="y \ud83d",
    y_init_ids=[5, 6, 2], y_init_correct=False, y_init_extracted="8", y_init_reason="differs",
    y_init_finish_reason="stop", y_init_seed=11,
)  # fmt: skip
REVISION = Revision(
    problem_idx=3, response_idx=1, revision_idx=2, p_r="Wrong.", y_revised="better", y_revised_ids=[9, 2],
    y_revised_correct=True, y_revised_extracted="7", y_revised_reason="equal", y_revised_finish_reason="stop",
    y_revised_seed=12,
)  # fmt: skip


@pytest.mark.parametrize("record", [RESPONSE, REVISION])
def test_a_line_of_the_log_gives_the_record_back(record):
    line = json.dumps(as_line(record))
    assert "\n" not in line
    restored = from_line(json.loads(line))
    assert restored == record and type(restored) is type(record)


def test_reward_and_keys():
    assert RESPONSE.r == 0
    assert RESPONSE.key == (3, 1, None)
    assert REVISION.key == (3, 1, 2)


def test_a_tuple_holds_the_fields_of_the_contract_and_the_sampled_ids():
    assert as_tuple(RESPONSE, REVISION) == {
        "id": "p3", "x": "x\u2028?", "ground_truth": "7", "y_init": "y \ud83d", "y_init_correct": False,
        "p_r": "Wrong.", "y_revised": "better", "y_revised_correct": True, "y_init_extracted": "8",
        "y_revised_extracted": "7", "response_idx": 1, "revision_idx": 2, "source": "set",
        "y_init_ids": [5, 6, 2], "y_revised_ids": [9, 2],
    }  # fmt: skip
    assert tuple(as_tuple(RESPONSE, REVISION)) == TUPLE_FIELDS
