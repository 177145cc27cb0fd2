"""The index of a finished checkpoint, and the leftovers of killed writers."""

import shutil

import pytest

from srt.common.errors import UserError
from srt.common.files import read_json, write_json
from srt.contract.model_identity import model_identity
from srt.contract.provenance import RESULTS, open_run, read_metadata, write_metadata


@pytest.fixture
def published(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "published")
    write_metadata(folder, {"stage": 2})
    return folder


def test_the_index_names_every_other_file_and_hashes_the_weights(published):
    index = read_json(published / "sd_zero.json")["files"]
    assert index.keys() == {path.name for path in published.iterdir()} - {"sd_zero.json"}
    for name, entry in index.items():
        assert entry["bytes"] == (published / name).stat().st_size
        assert ("sha256" in entry) == (name == "model.safetensors")


def test_a_second_write_makes_the_index_again(published):
    (published / "chat_template.jinja").unlink()
    write_metadata(published, {"stage": 2})
    assert read_metadata(str(published)) == read_json(published / "sd_zero.json")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_gone_is_named(published, name):
    (published / name).unlink()
    with pytest.raises(UserError, match=f"published is not as it was written: {name} is missing"):
        read_metadata(str(published))


def test_configs_may_be_edited_and_weights_may_not(published):
    config = published / "generation_config.json"
    config.write_text(config.read_text() + "\n")
    assert read_metadata(str(published)) and model_identity(str(published))
    weights = published / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors has another content"):
        model_identity(str(published))


def test_a_checkpoint_of_an_earlier_version_has_no_index(published):
    write_json(published / "sd_zero.json", {"stage": 2})
    (published / "tokenizer.json").unlink()
    assert read_metadata(str(published)) == {"stage": 2}


def test_temporary_files_of_killed_writers_are_deleted_and_others_stay(tmp_path):
    for name in (".run.json.12345.tmp", ".d_revision.json.7.tmp", ".mine.tmp", "run.json.12345.tmp"):
        (tmp_path / name).write_text("half")
    open_run(tmp_path, {}, {})
    assert {path.name for path in tmp_path.iterdir()} == {".mine.tmp", "run.json.12345.tmp", "run.json"}


@pytest.mark.parametrize("name", RESULTS)
def test_results_without_run_json_are_not_taken_over(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"holds {name} and no run.json, so nothing says what made it"):
        open_run(tmp_path, {}, {})
    assert not (tmp_path / "run.json").exists()
