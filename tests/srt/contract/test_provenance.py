"""run.json and fingerprints: which runs are the same run."""

import shutil
import subprocess
import sys

import pytest

from quickstart.tokenizer import build_tokenizer
from srt.common.errors import UserError
from srt.common.files import read_json, write_json
from srt.contract.phrases import PHRASE_SETS
from srt.contract.provenance import (
    close_run,
    fingerprint,
    git_commit,
    known,
    model_revision,
    open_run,
    package_versions,
    read_metadata,
    tokenizer_fingerprint,
)

IDENTITY = {
    "model": "some/model",
    "temperature": 1.0,
    "problems": [0, None, 5],
    "revise": True,
    "nothing": None,
    "control_phrases": PHRASE_SETS["qwen"].as_dict(),
    "prompt": {"chat_template_kwargs": {"a": [1, {"b": 0.1}]}},
}


def test_a_new_run_writes_its_identity(tmp_path):
    assert open_run(tmp_path / "run", IDENTITY, {"batch_size": 4}) is False
    written = read_json(tmp_path / "run" / "run.json")
    assert written["identity"] == IDENTITY
    assert written["config"] == {"batch_size": 4}
    assert written["packages"]["transformers"] and written["git_commit"]


def test_a_run_does_not_begin_without_the_weights_of_its_model(tmp_path, tiny_checkpoint):
    model, run = shutil.copytree(tiny_checkpoint, tmp_path / "model"), tmp_path / "run"
    whole = (model / "model.safetensors").rename(tmp_path / "whole")
    with pytest.raises(UserError, match=r"model: a checkpoint without weights \(no \.safetensors or \.bin"):
        open_run(run, {"model": "without"}, {}, models=[str(model)])
    shards = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    index = {"weight_map": {f"tensor_{n}": name for n, name in enumerate([*shards, *shards])}}
    write_json(model / "model.safetensors.index.json", index)
    shutil.copyfile(whole, model / shards[0])
    with pytest.raises(UserError, match=r"2 of 3 weight files are missing \(the first: model-00002-of-00003"):
        open_run(run, {"model": "a third"}, {}, models=["some/model", str(model)])
    assert not run.exists()  # so that the folder is free for the run with all weights
    for shard in shards:
        shutil.copyfile(whole, model / shard)
    assert open_run(run, {"model": "whole"}, {}, models=["some/model", str(model)]) is False


OTHER_PROCESS = (
    "from pathlib import Path; from srt.contract.provenance import open_run; open_run(Path({!r}), {{}}, {{}})"
)


def test_a_folder_in_use_by_another_process_is_refused_until_that_is_killed(tmp_path):
    waiting = OTHER_PROCESS.format(str(tmp_path)) + "; print('in', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", waiting], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        with pytest.raises(UserError, match="is in use by another process"):
            open_run(tmp_path, {}, {})
    finally:
        process.kill()
        process.communicate()
    assert open_run(tmp_path, {}, {}) is True
    assert open_run(tmp_path, {}, {}) is True  # this process already holds the lock


def test_the_same_settings_continue_it_and_keep_its_record(tmp_path):
    open_run(tmp_path, IDENTITY, {"batch_size": 4})
    before = (tmp_path / "run.json").read_bytes()
    assert open_run(tmp_path, dict(reversed(IDENTITY.items())), {"batch_size": 8}) is True
    assert (tmp_path / "run.json").read_bytes() == before


def test_every_setting_that_differs_is_named_with_both_values(tmp_path):
    open_run(tmp_path, IDENTITY, {})
    other = {**IDENTITY, "temperature": 0.5, "control_phrases": PHRASE_SETS["olmo"].as_dict(), "seed": 3}
    del other["revise"]
    with pytest.raises(UserError) as caught:
        open_run(tmp_path, other, {})
    message = str(caught.value)
    for part in (
        "temperature was 1.0 and is now 0.5",
        "control_phrases was {'name': 'qwen'",
        "is now {'name': 'olmo'",
        "seed was None and is now 3",
        "revise was True and is now None",
        str(tmp_path),
        "another OUTPUT_DIR",
    ):
        assert part in message
    for same in ("model was", "problems was", "prompt was"):
        assert same not in message
    assert read_json(tmp_path / "run.json")["identity"] == IDENTITY


@pytest.mark.parametrize("name", IDENTITY)
def test_each_setting_matters(tmp_path, name):
    open_run(tmp_path, IDENTITY, {})
    with pytest.raises(UserError, match=f"{name} was .* and is now 'other'. Use"):
        open_run(tmp_path, {**IDENTITY, name: "other"}, {})


def test_results_are_added_and_a_finished_run_is_still_the_same_run(tmp_path):
    open_run(tmp_path, IDENTITY, {"batch_size": 4})
    close_run(tmp_path, {"kept": 5})
    close_run(tmp_path, {"kept": 6})
    written = read_json(tmp_path / "run.json")
    assert written["results"] == {"kept": 6} and written["config"] == {"batch_size": 4}
    assert open_run(tmp_path, IDENTITY, {}) is True


def test_fingerprints_distinguish_parts():
    parts = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), (), ("",), (b"abc", b"d")]
    assert len({fingerprint(*p) for p in parts}) == len(parts)
    assert fingerprint("a", b"b") == fingerprint(b"a", "b")
    assert fingerprint("\ud83d")  # invalid Unicode, as a model may write it


def test_tokenizers_with_different_ids_have_different_fingerprints():
    tokenizer, other = build_tokenizer(), build_tokenizer()
    assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(other)
    other.add_tokens(["<new>"])
    assert tokenizer_fingerprint(tokenizer) != tokenizer_fingerprint(other)


def test_versions_and_commit():
    assert {"torch", "transformers"} <= set(package_versions())
    commit = git_commit()
    assert commit == "unknown" or len(commit.removesuffix("+changes")) == 40


# Revisions ----------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """hub_cache(repo, commit): what huggingface_hub leaves after it has resolved and loaded `repo`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def cache(repo, commit=COMMIT, name="config.json", content="{}"):
        folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
        (folder / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
        (folder / "snapshots" / commit / name).write_text(content)

    return cache


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_the_revision_of_a_hub_model_is_the_commit_that_the_cache_holds(hub_cache, name):
    hub_cache("some/model", name=name)
    assert model_revision("some/model") == COMMIT


def test_a_revision_that_is_not_known_is_none(hub_cache, tiny_checkpoint):
    for model in ("some/other", str(tiny_checkpoint), "/no/such/folder", "a/b/c", ""):
        assert model_revision(model) is None
    assert known({"some/other": None, "a": COMMIT}) == {"a": COMMIT}


def test_a_run_continues_only_with_the_revisions_it_began_with(tmp_path):
    open_run(tmp_path, IDENTITY, {}, {"some/model": COMMIT})
    assert read_json(tmp_path / "run.json")["revisions"] == {"some/model": COMMIT}
    assert open_run(tmp_path, IDENTITY, {}, {"some/model": COMMIT, "some/data": COMMIT})
    assert open_run(tmp_path, IDENTITY, {}, {})  # the hub could not be reached
    with pytest.raises(UserError) as caught:
        open_run(tmp_path, IDENTITY, {}, {"some/model": "f" * 40})
    for part in (COMMIT, "f" * 40, "some/model", str(tmp_path / "run.json"), 'delete "revisions"'):
        assert part in str(caught.value)


def test_a_run_from_before_revisions_were_stored_continues(tmp_path):
    write_json(tmp_path / "run.json", {"identity": IDENTITY, "config": {}})
    assert open_run(tmp_path, IDENTITY, {}, {"some/model": COMMIT})


def test_a_checkpoint_on_the_hub_brings_its_metadata(hub_cache, tmp_path):
    hub_cache("some/model")
    assert read_metadata("some/model") is None
    hub_cache("some/srt", name="sd_zero.json", content='{"mode": "code"}')
    assert read_metadata("some/srt") == {"mode": "code"}
    for model in ("some/other", "/no/such/folder", "a/b/c", "not a name", ""):
        assert read_metadata(model) is None
