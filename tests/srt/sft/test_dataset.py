"""Stage files -> the ids and the supervised positions that SFT trains on."""

import pytest

from quickstart.tokenizer import build_tokenizer
from srt.common.errors import UserError
from srt.common.files import write_json
from srt.contract.layout import Layout, PromptFormat
from srt.contract.phrases import PHRASE_SETS
from srt.contract.records import pack_ids, unpack_ids
from srt.sft.dataset import build_rows, load_stage

PHRASES = PHRASE_SETS["qwen"]
LONG = 10_000


@pytest.fixture(scope="module")
def layout():
    tokenizer = build_tokenizer()
    return Layout(tokenizer, PHRASES, PromptFormat(prompt_suffix=""), [tokenizer.eos_token_id])


@pytest.fixture
def record(layout):
    """Its ids are not those that its text gives: a digit was sampled apart from the space before it."""
    record = {"x": "x = 1", "y_init": "A 3 = 4", "p_r": PHRASES.wrong, "y_revised": "A 3 = 2"}
    tokenizer = layout.tokenizer
    for name, digit in (("y_init", "4"), ("y_revised", "2")):
        ids = tokenizer.encode("A 3 =") + tokenizer.convert_tokens_to_ids(["Ġ", digit])
        assert tokenizer.decode(ids) == record[name] and tokenizer.encode(record[name]) != ids
        record[f"{name}_ids"] = pack_ids([*ids, tokenizer.eos_token_id])
    return record


def test_rows_are_the_layouts_of_the_sampled_ids(layout, record):
    for stage in (1, 2):
        built = build_rows([record], layout, stage, LONG, ids_fit=True)
        assert (built.too_long, built.retokenized) == (0, 0)
        (row,) = built.rows
        y_init, y_revised = unpack_ids(record["y_init_ids"]), unpack_ids(record["y_revised_ids"])
        prompt = layout.chat("x = 1") + y_init[:-1] + layout.cue(0)
        assert row.ids == prompt + y_revised
        supervised = {1: y_init[:-1] + layout.cue(0) + y_revised, 2: y_revised}[stage]
        assert row.ids[row.start :] == supervised


def test_the_phrase_decides_the_cue(layout, record):
    (row,) = build_rows([record | {"p_r": PHRASES.right}], layout, 2, LONG, ids_fit=True).rows
    assert row.ids[row.start - len(layout.cue(1)) : row.start] == layout.cue(1)


def test_text_is_tokenised_part_by_part_where_ids_do_not_fit_and_that_is_counted(layout, record):
    without_ids = {name: value for name, value in record.items() if not name.endswith("_ids")}
    encode = layout.tokenizer.encode
    expected = layout.chat("x = 1") + encode(record["y_init"]) + layout.cue(0) + encode(record["y_revised"]) + [2]
    for given, ids_fit in ((record, False), (without_ids, True)):
        built = build_rows([given], layout, 1, LONG, ids_fit)
        assert built.rows[0].ids == expected
        assert built.retokenized == 1


def test_tuples_beyond_the_limit_are_set_aside_and_counted(layout, record):
    longer = record | {"y_revised_ids": pack_ids(unpack_ids(record["y_revised_ids"])[:-1] * 2 + [2])}
    length = len(build_rows([record], layout, 1, LONG, ids_fit=True).rows[0].ids)
    built = build_rows([longer, record, longer], layout, 1, length, ids_fit=True)
    assert len(built.rows) == 1 and len(built.rows[0].ids) == length
    assert built.too_long == 2
    assert build_rows([record], layout, 1, length - 1, ids_fit=True).rows == []


def test_rows_keep_the_records_order(layout, record):
    records = [record | {"x": f"x = {n}"} for n in range(5)]
    rows = build_rows(records, layout, 1, LONG, ids_fit=True).rows
    assert [row.ids[: row.start] for row in rows] == [layout.chat(f"x = {n}") for n in range(5)]


def test_a_phrase_of_another_set_is_refused_with_its_record(layout, record):
    records = [record, record | {"p_r": PHRASE_SETS["olmo"].wrong}]
    with pytest.raises(UserError) as caught:
        build_rows(records, layout, 1, LONG, ids_fit=True)
    for part in ("record 2", "Wrong. I need to redo all.", "'qwen'", "CONTROL_PHRASES"):
        assert part in str(caught.value)


# Stage files --------------------------------------------------------------------------------------------


def test_load_stage(tmp_path, record):
    write_json(tmp_path / "stage.json", [record, record])
    assert load_stage(tmp_path / "stage.json") == [record, record]


def test_a_missing_stage_file(tmp_path):
    with pytest.raises(UserError, match=r"stage\.json: there is no such stage file; run run_srt_data\.sh first"):
        load_stage(tmp_path / "stage.json")


@pytest.mark.parametrize("content", [[], {}, {"prompt": "x"}, None])
def test_a_stage_file_of_zero_rows(tmp_path, content):
    write_json(tmp_path / "stage.json", content)
    with pytest.raises(UserError, match=r"stage\.json: a list with at least one tuple is expected"):
        load_stage(tmp_path / "stage.json")


def test_a_stage_file_that_is_no_json(tmp_path):
    (tmp_path / "stage.json").write_text("[{")
    with pytest.raises(UserError, match=r"stage\.json: not readable as JSON"):
        load_stage(tmp_path / "stage.json")


@pytest.mark.parametrize("name", ["x", "y_init", "p_r", "y_revised"])
def test_a_record_that_lacks_a_part(tmp_path, record, name):
    lacking = {key: value for key, value in record.items() if key != name}
    write_json(tmp_path / "stage.json", [record, lacking])
    with pytest.raises(UserError, match=rf"stage\.json, record 2: it lacks {name}$"):
        load_stage(tmp_path / "stage.json")


def test_a_record_that_is_no_object(tmp_path):
    write_json(tmp_path / "stage.json", ["text"])
    with pytest.raises(UserError, match=r"record 1: it lacks x, y_init, p_r, y_revised"):
        load_stage(tmp_path / "stage.json")
