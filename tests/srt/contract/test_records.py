"""Records: log lines, tuples and packed token ids."""

import base64
import json
import random
import zlib

import pytest

from srt.common.errors import UserError
from srt.contract.records import (
    TUPLE_FIELDS,
    Response,
    Revision,
    as_line,
    as_tuple,
    from_line,
    pack_ids,
    unpack_ids,
)

RESPONSE = Response(
    problem_idx=3,
    response_idx=1,
    id="p3",
    source="set",
    x="x\u2028?",
    ground_truth="7",
    y_init="y \ud83d",
    y_init_ids=pack_ids([5, 6, 2]),
    y_init_tokens=3,
    y_init_correct=False,
    y_init_extracted="8",
    y_init_reason="differs",
    y_init_finish_reason="stop",
    y_init_seed=11,
)
REVISION = Revision(
    problem_idx=3,
    response_idx=1,
    revision_idx=2,
    p_r="Wrong.",
    y_revised="better",
    y_revised_ids=pack_ids([9, 2]),
    y_revised_tokens=2,
    y_revised_correct=True,
    y_revised_extracted="7",
    y_revised_reason="equal",
    y_revised_finish_reason="stop",
    y_revised_seed=12,
)


@pytest.mark.parametrize("record", [RESPONSE, REVISION])
def test_a_record_survives_the_round_trip_through_a_log_line(record):
    line = json.dumps(as_line(record))
    assert "\n" not in line
    restored = from_line(json.loads(line))
    assert restored == record and type(restored) is type(record)


def test_reward_and_keys():
    assert RESPONSE.r == 0
    assert RESPONSE.key == (3, 1, None)
    assert REVISION.key == (3, 1, 2)
    assert REVISION.key.response_key == RESPONSE.key
    assert json.dumps(REVISION.key) == "[3, 1, 2]"  # as in set_aside.jsonl


def test_a_tuple_holds_the_fields_of_the_contract_and_the_sampled_ids():
    assert as_tuple(RESPONSE, REVISION) == {
        "id": "p3",
        "x": "x\u2028?",
        "ground_truth": "7",
        "y_init": "y \ud83d",
        "y_init_correct": False,
        "p_r": "Wrong.",
        "y_revised": "better",
        "y_revised_correct": True,
        "y_init_extracted": "8",
        "y_revised_extracted": "7",
        "response_idx": 1,
        "revision_idx": 2,
        "source": "set",
        "y_init_ids": pack_ids([5, 6, 2]),
        "y_revised_ids": pack_ids([9, 2]),
        "cleaned": [],
    }
    assert tuple(as_tuple(RESPONSE, REVISION)) == TUPLE_FIELDS


# Packed ids ---------------------------------------------------------------------------------------------


MANY = random.Random(0).choices(range(152_000), k=999)


@pytest.mark.parametrize("ids", [[], [0], [151_645], [2**31 - 1, 0, 1], MANY])
def test_unpacking_restores_the_ids(ids):
    assert unpack_ids(pack_ids(ids)) == ids
    assert unpack_ids(json.loads(json.dumps(pack_ids(ids)))) == ids


def test_the_packing_is_the_documented_one():
    """Files outlive the code: base64 of zlib of little-endian int32."""
    assert zlib.decompress(base64.b64decode(pack_ids([1, 258]))) == b"\x01\0\0\0\x02\x01\0\0"


def test_packed_ids_are_shorter_than_the_numbers():
    words = random.Random(0).choices(range(152_000), weights=[1 / (n + 1) for n in range(152_000)], k=16_000)
    assert len(pack_ids(words)) < 0.75 * len(json.dumps(words, separators=(",", ":")))


@pytest.mark.parametrize(
    "found",
    [
        [5, 6, 2],
        "5,6,2",
        "!",
        base64.b64encode(b"plain").decode(),
        None,
        base64.b64encode(zlib.compress(b"\1\2\3")).decode(),
    ],
)
def test_ids_in_any_other_form_are_refused(found):
    with pytest.raises(UserError, match="expected token ids as srt.contract.records.pack_ids writes them, found"):
        unpack_ids(found)
