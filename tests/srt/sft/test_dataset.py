"""Stage files -> the token ids and supervised positions that SFT trains on."""

import pytest

from quickstart.tokenizer import build_tokenizer
from srt.collect.split import stage_record
from srt.common.errors import UserError
from srt.common.files import write_json
from srt.contract.layout import Layout, PromptFormat
from srt.contract.phrases import PHRASE_SETS
from srt.contract.records import pack_ids, unpack_ids
from srt.sft.dataset import build_sequences, load_stage

PHRASES = PHRASE_SETS["qwen"]
LONG = 10_000


@pytest.fixture(scope="module")
def layout():
    tokenizer = build_tokenizer()
    return Layout(tokenizer, PHRASES, PromptFormat(prompt_suffix=""), [tokenizer.eos_token_id])


@pytest.fixture
def record(layout):
    """Its ids differ from those of its tokenized text: a digit was sampled separately from the space before it."""
    record = {"x": "x = 1", "y_init": "A 3 = 4", "p_r": PHRASES.wrong, "y_revised": "A 3 = 2"}
    tokenizer = layout.tokenizer
    for name, digit in (("y_init", "4"), ("y_revised", "2")):
        ids = tokenizer.encode("A 3 =") + tokenizer.convert_tokens_to_ids(["Ġ", digit])
        assert tokenizer.decode(ids) == record[name] and tokenizer.encode(record[name]) != ids
        record[f"{name}_ids"] = pack_ids([*ids, tokenizer.eos_token_id])
    return record


def test_sequences_have_the_layout_of_the_sampled_ids(layout, record):
    for stage in (1, 2):
        built = build_sequences([record], layout, stage, LONG, use_stored_ids=True)
        assert (built.too_long, built.num_tokenized) == ({}, 0)
        (sequence,) = built.sequences
        y_init, y_revised = unpack_ids(record["y_init_ids"]), unpack_ids(record["y_revised_ids"])
        prompt = layout.chat("x = 1") + y_init[:-1] + layout.cue(0)
        assert sequence.ids == prompt + y_revised
        supervised = {1: y_init[:-1] + layout.cue(0) + y_revised, 2: y_revised}[stage]
        assert sequence.ids[sequence.start :] == supervised


def test_the_phrase_decides_the_cue(layout, record):
    (sequence,) = build_sequences(
        [record | {"p_r": PHRASES.right}], layout, 2, LONG, use_stored_ids=True
    ).sequences
    assert sequence.ids[sequence.start - len(layout.cue(1)) : sequence.start] == layout.cue(1)


def test_text_is_tokenized_part_by_part_without_usable_ids_and_that_is_counted(layout, record):
    without_ids = {name: value for name, value in record.items() if not name.endswith("_ids")}
    encode = layout.tokenizer.encode
    expected = layout.chat("x = 1") + encode(record["y_init"]) + layout.cue(0) + encode(record["y_revised"]) + [2]
    for given, use_stored_ids in ((record, False), (without_ids, True)):
        built = build_sequences([given], layout, 1, LONG, use_stored_ids)
        assert built.sequences[0].ids == expected
        assert built.num_tokenized == 1


@pytest.mark.parametrize("part", ["y_init", "y_revised"])
def test_an_edited_text_is_trained_on_with_new_ids_and_counted(layout, record, part):
    edited = record | {part: "A 5 = 9"}
    built = build_sequences([record, edited], layout, 1, LONG, use_stored_ids=True)
    assert (built.num_edited, built.num_tokenized) == (1, 1)
    assert "A 5 = 9" in layout.tokenizer.decode(built.sequences[1].ids)
    assert record[part] not in layout.tokenizer.decode(built.sequences[1].ids)


@pytest.mark.parametrize("name", ["prompt", "completion"])
def test_an_edited_copy_that_is_not_trained_on_is_refused(layout, record, name):
    written = stage_record(record, 1)
    assert build_sequences([written], layout, 1, LONG, use_stored_ids=True).num_edited == 0
    with pytest.raises(UserError, match=f"record 1: its {name} was edited, and SFT reads x, y_init, p_r"):
        build_sequences([written | {name: "something else"}], layout, 1, LONG, use_stored_ids=True)


def test_tuples_above_the_length_limit_are_set_aside_and_counted(layout, record):
    twice = unpack_ids(record["y_revised_ids"])[:-1] * 2 + [2]
    longer = record | {"y_revised": layout.decode(twice), "y_revised_ids": pack_ids(twice)}
    length = len(build_sequences([record], layout, 1, LONG, use_stored_ids=True).sequences[0].ids)
    built = build_sequences([longer, record, longer], layout, 1, length, use_stored_ids=True)
    assert len(built.sequences) == 1 and len(built.sequences[0].ids) == length
    assert len(built.too_long) == 2
    assert build_sequences([record], layout, 1, length - 1, use_stored_ids=True).sequences == []


def test_sequences_keep_the_order_of_the_records(layout, record):
    records = [record | {"x": f"x = {n}"} for n in range(5)]
    sequences = build_sequences(records, layout, 1, LONG, use_stored_ids=True).sequences
    assert [s.ids[: s.start] for s in sequences] == [layout.chat(f"x = {n}") for n in range(5)]


def test_a_phrase_from_another_set_is_refused_naming_the_record(layout, record):
    records = [record, record | {"p_r": PHRASE_SETS["olmo"].wrong}]
    with pytest.raises(UserError) as caught:
        build_sequences(records, layout, 1, LONG, use_stored_ids=True)
    for part in ("record 2", "Wrong. I need to redo all.", "'qwen'", "CONTROL_PHRASES"):
        assert part in str(caught.value)


# Stage files --------------------------------------------------------------------------------------------


def test_load_stage(tmp_path, record):
    write_json(tmp_path / "stage.json", [record, record])
    assert load_stage(tmp_path / "stage.json") == [record, record]


def test_a_missing_stage_file(tmp_path):
    with pytest.raises(UserError, match=r"stage\.json: no such stage file; run run_srt_data\.sh first"):
        load_stage(tmp_path / "stage.json")


@pytest.mark.parametrize("content", [[], {}, {"prompt": "x"}, None])
def test_a_stage_file_without_tuples(tmp_path, content):
    write_json(tmp_path / "stage.json", content)
    with pytest.raises(UserError, match=r"stage\.json: expected a list with at least one tuple"):
        load_stage(tmp_path / "stage.json")


def test_a_stage_file_that_is_not_json(tmp_path):
    (tmp_path / "stage.json").write_text("[{")
    with pytest.raises(UserError, match=r"stage\.json: not readable as JSON"):
        load_stage(tmp_path / "stage.json")


@pytest.mark.parametrize("name", ["x", "y_init", "p_r", "y_revised"])
def test_a_record_that_lacks_a_part(tmp_path, record, name):
    incomplete = {key: value for key, value in record.items() if key != name}
    write_json(tmp_path / "stage.json", [record, incomplete])
    with pytest.raises(UserError, match=rf"stage\.json, record 2: missing {name}$"):
        load_stage(tmp_path / "stage.json")


def test_a_record_that_is_not_an_object(tmp_path):
    write_json(tmp_path / "stage.json", ["text"])
    with pytest.raises(UserError, match=r"record 1: missing x, y_init, p_r, y_revised"):
        load_stage(tmp_path / "stage.json")
