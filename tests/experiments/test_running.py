"""The jobs of the one-GPU experiment as processes: what is recorded of them."""

import json

import pytest

from experiments.one_gpu.plan import Job, Layout
from experiments.one_gpu.running import SECONDS_BEFORE, start
from srt.common.files import write_json


@pytest.mark.parametrize(
    ("job", "earlier"), [(Job("grpo", "trl", "sft", "missing"), 0), (Job("srt", "sft", data="missing"), 1000)]
)
def test_seconds_before_a_stop_count_where_the_job_continues_and_not_where_it_begins_again(job, earlier, tmp_path):
    layout = Layout(tmp_path, str(tmp_path / "no model"))
    write_json(layout.folder(job.name) / SECONDS_BEFORE, 1000)
    running = start(job, {job.name: job}, layout, [""])
    running.process.wait(120)
    assert not running.succeeded()
    seconds = json.loads((layout.folder(job.name) / SECONDS_BEFORE).read_text())
    assert earlier < seconds < earlier + 120
