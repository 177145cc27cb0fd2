"""What an export holds, wherever the results are, and what an import refuses."""

import os

import pytest

from experiments.one_gpu.archive import export_results, import_results
from experiments.one_gpu.plan import PLAN, Layout, load_jobs
from srt.common.errors import UserError

RESULTS = (
    "problems/test.jsonl",
    "collect/samples/attempts.jsonl",
    "srt/stage2/sd_zero.json",
    "sd_zero/metrics.jsonl",
    "world/world.json",
    "world/base/model.safetensors",
)
LEFT_BEHIND = (
    "srt/stage2/model.safetensors",
    "srt/stage2/tokenizer.json",
    "srt/stage1.work/state.json",
    "sd_zero/checkpoints/step_1/state.json",
    "rft/optimizer.pt",
)


@pytest.mark.parametrize("place", ["one_gpu", "model/checkpoints/mine.work/one_gpu"])
def test_results_travel_without_models_whatever_the_folder_above_is_called(tmp_path, place):
    output = tmp_path / place
    for name in (*RESULTS, *LEFT_BEHIND):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(name)
    export_results(output, tmp_path / "exports" / "results.tar.gz")
    import_results(tmp_path / "exports" / "results.tar.gz", [], Layout(tmp_path / "there", "base"))
    found = {
        str(path.relative_to(tmp_path / "there")) for path in (tmp_path / "there").rglob("*") if path.is_file()
    }
    assert found == set(RESULTS)
    with pytest.raises(UserError, match="there is not empty: import into a folder of its own"):
        import_results(tmp_path / "exports" / "results.tar.gz", [], Layout(tmp_path / "there", "base"))


def test_samples_travel_however_many_they_are(tmp_path):
    """Without them, a collection that is done would be drawn again by the next job that selects from it."""
    attempts = tmp_path / "here" / "collect" / "samples" / "attempts.jsonl"
    attempts.parent.mkdir(parents=True)
    attempts.touch()
    os.truncate(attempts, 100 * 2**20)
    export_results(tmp_path / "here", tmp_path / "here" / "results.tar.gz")
    import_results(tmp_path / "here" / "results.tar.gz", [], Layout(tmp_path / "there", "base"))
    assert (tmp_path / "there" / "collect" / "samples" / "attempts.jsonl").stat().st_size == 100 * 2**20


def test_models_that_were_half_done_begin_again(tmp_path):
    """Phase 2 refuses to continue with problems at another path; a stage of SFT has lost its weights."""
    here, there = Layout(tmp_path / "here", "base"), Layout(tmp_path / "there", "base")
    for name in ("collect", "sd_zero_without_srt", "grpo", "evaluate/grpo"):
        here.folder(name).mkdir(parents=True)
        (here.folder(name) / "run.json").touch()
    (here.folder("grpo") / "job.json").write_text('{"job": "grpo"}')
    export_results(here.output, tmp_path / "x.tar.gz")
    import_results(tmp_path / "x.tar.gz", load_jobs(PLAN).values(), there)
    found = {str(path.parent.relative_to(there.output)) for path in there.output.rglob("run.json")}
    assert found == {"collect", "sd_zero_without_srt.before1", "grpo", "evaluate/grpo"}


@pytest.mark.parametrize("content", [None, b"hello", b""])
def test_a_file_that_is_no_export_is_refused_and_leaves_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(UserError, match="x.tar.gz cannot be unpacked into .* expected a file of --export, whole"):
        import_results(tmp_path / "x.tar.gz", [], Layout(tmp_path / "there", "base"))
    assert not (tmp_path / "there").exists()


def test_an_export_that_was_cut_off_is_refused(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "noise").write_bytes(os.urandom(2**16))
    export_results(tmp_path / "here", tmp_path / "x.tar.gz")
    os.truncate(tmp_path / "x.tar.gz", 2**15)
    with pytest.raises(UserError, match="cannot be unpacked"):
        import_results(tmp_path / "x.tar.gz", [], Layout(tmp_path / "there", "base"))
