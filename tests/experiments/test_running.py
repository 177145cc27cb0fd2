"""The jobs of the one-GPU experiment as processes: what is recorded of them."""

import json

import pytest

from experiments.one_gpu.plan import Job, Layout
from experiments.one_gpu.running import SECONDS_BEFORE, start
from srt.common.files import write_json


@pytest.mark.parametrize(
    ("job", "earlier"), [(Job("grpo", "trl", "sft", "missing"), 0), (Job("srt", "sft", data="missing"), 1000)]
)
def test_what_was_before_a_stop_counts_where_the_job_continues(job, earlier, tmp_path):
    """A rival begins again: one that was killed once its model was there could not write it a second time."""
    layout = Layout(tmp_path, str(tmp_path / "no model"))
    folder = layout.folder(job.name)
    for name in (SECONDS_BEFORE, "model/config.json"):
        write_json(folder / name, 1000)
    running = start(job, {job.name: job}, layout, [""])
    assert (folder / "model").exists() == job.continues == (not (tmp_path / f"{job.name}.before1").exists())
    running.process.wait(120)
    assert not running.succeeded()
    seconds = json.loads((folder / SECONDS_BEFORE).read_text())
    assert earlier < seconds < earlier + 120
