"""D_revision -> stage files: sizes, disjointness, and the content of records."""

import pytest

from srt.collect.consumed import read_consumed, text_sha256, write_consumed
from srt.collect.split import metadata_path, prepare, stage_record, stage_sizes
from srt.common.errors import UserError
from srt.common.files import read_json, write_json
from srt.contract.phrases import PHRASE_SETS
from srt.contract.records import Problem, pack_ids

PHRASES = PHRASE_SETS["qwen"]


def new_tuple(index):
    return {
        "id": f"p{index}",
        "x": f"x{index}?",
        "ground_truth": "2",
        "y_init": f"y{index}",
        "y_init_correct": False,
        "p_r": PHRASES.wrong,
        "y_revised": f"z{index}",
        "y_revised_correct": True,
        "y_init_extracted": "1",
        "y_revised_extracted": "2",
        "response_idx": 0,
        "revision_idx": 0,
        "source": "",
        "cleaned": [],
        "y_init_ids": pack_ids([5, 2]),
        "y_revised_ids": pack_ids([6, 2]),
    }


# Sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("available", [6000, 6001, 100_000])
def test_the_requested_sizes_if_there_are_enough_tuples(available):
    assert stage_sizes(available, 4000, 2000) == (4000, 2000)


def test_all_tuples_in_the_same_proportion_if_there_are_fewer():
    for available in range(2, 6000):
        stage1, stage2 = stage_sizes(available, 4000, 2000)
        assert stage1 + stage2 == available and stage1 >= 1 and stage2 >= 1
        assert abs(stage1 - 2 * available / 3) <= 0.5


@pytest.mark.parametrize(("sizes", "expected"), [((1, 99), (1, 9)), ((99, 1), (9, 1)), ((50, 50), (5, 5))])
def test_no_stage_is_left_empty_however_lopsided_the_proportion(sizes, expected):
    assert stage_sizes(10, *sizes) == expected
    assert stage_sizes(2, *sizes) == (1, 1)


@pytest.mark.parametrize(("available", "words"), [(0, "0 tuples"), (1, "1 tuple ")])
def test_fewer_than_two_tuples_is_an_error_that_says_what_to_change(available, words):
    with pytest.raises(UserError) as caught:
        stage_sizes(available, 4000, 2000)
    for part in (words, "at least 2", "more problems", "NUM_RESPONSES", "NUM_REVISIONS", "REVISE_CORRECT=1"):
        assert part in str(caught.value)


# Records ------------------------------------------------------------------------------------------------


def test_stage_records_are_the_papers_prompts_and_completions_with_the_parts():
    tuple_ = new_tuple(1)
    stage1, stage2 = stage_record(tuple_, 1), stage_record(tuple_, 2)
    assert stage1["prompt"] == "x1?"
    assert stage1["completion"] == f"y1\n\n{PHRASES.wrong}\n\nz1"
    assert stage2["prompt"] == f"x1?\n\ny1\n\n{PHRASES.wrong}\n\n"
    assert stage2["completion"] == "z1"
    for record in (stage1, stage2):
        assert {name: record[name] for name in tuple_} == tuple_


# The step -----------------------------------------------------------------------------------------------


@pytest.fixture
def run_prepare(tmp_path):
    """Writes a collection of `count` tuples, splits it, and returns both stages' records."""

    def run(count, *config):
        write_json(tmp_path / "collection" / "d_revision.json", [new_tuple(i) for i in range(count)])
        run_json = {"identity": {"control_phrases": PHRASES.as_dict(), "mode": "math"}}
        write_json(tmp_path / "collection" / "run.json", run_json)
        folders = [f"output_dir={tmp_path / 'collection'}", f"train_data_dir={tmp_path / 'data'}"]
        prepare([*folders, "data_prefix=p", *config])
        return [read_json(tmp_path / "data" / f"p_stage{stage}.json") for stage in (1, 2)]

    return run


def ids(records):
    return [record["id"] for record in records]


def test_no_tuple_is_in_both_stages_or_twice_in_one(run_prepare):
    stage1, stage2 = run_prepare(20, "stage1_size=8", "stage2_size=4")
    assert (len(stage1), len(stage2)) == (8, 4)
    assert len(set(ids(stage1)) | set(ids(stage2))) == 12


def test_if_there_are_too_few_tuples_all_are_used_and_a_note_is_printed(run_prepare, capsys):
    stage1, stage2 = run_prepare(9)
    assert (len(stage1), len(stage2)) == (6, 3)
    assert sorted(ids(stage1 + stage2)) == sorted(f"p{i}" for i in range(9))
    note = "note: 9 tuples do not fill STAGE1_SIZE=4000 and STAGE2_SIZE=2000; the stages get 6 and 3"
    assert note in capsys.readouterr().out


def test_enough_tuples_need_no_note(run_prepare, capsys):
    run_prepare(12, "stage1_size=8", "stage2_size=4")
    assert "do not fill" not in capsys.readouterr().out


def test_the_seed_decides_the_split(run_prepare):
    first, again, other = (run_prepare(30, f"seed={seed}") for seed in (0, 0, 1))
    assert first == again
    assert ids(first[0]) != ids(other[0])
    assert ids(first[0]) != [f"p{i}" for i in range(20)]  # not simply the first ones


def test_each_stage_file_has_its_metadata(run_prepare, tmp_path):
    run_prepare(9)
    for stage, count in ((1, 6), (2, 3)):
        metadata = read_json(metadata_path(tmp_path / "data" / f"p_stage{stage}.json"))
        assert metadata["identity"]["control_phrases"] == PHRASES.as_dict()
        assert (metadata["stage"], metadata["tuples"]) == (stage, count)


def test_the_problems_that_were_used_are_beside_the_stage_files(run_prepare, tmp_path, capsys):
    run_prepare(9)
    assert "srt_problems.jsonl is missing, so Phase 2 cannot leave" in capsys.readouterr().out
    write_consumed(tmp_path / "collection" / "srt_problems.jsonl", [Problem("a", "1?", "1")])
    run_prepare(9)
    assert read_consumed(tmp_path / "data" / "p_problems.jsonl") == {text_sha256("1?"): "a"}
    assert "is missing" not in capsys.readouterr().out
    (tmp_path / "collection" / "srt_problems.jsonl").unlink()
    run_prepare(9)
    assert not (tmp_path / "data" / "p_problems.jsonl").exists()  # of another collection


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_tuples_write_nothing(run_prepare, tmp_path, count):
    with pytest.raises(UserError, match="SFT needs at least 2"):
        run_prepare(count)
    assert not (tmp_path / "data").exists()


def test_a_missing_collection_is_named(tmp_path):
    with pytest.raises(UserError, match=r"d_revision\.json: no such file"):
        prepare([f"output_dir={tmp_path}", f"train_data_dir={tmp_path}"])
