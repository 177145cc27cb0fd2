"""The report of a real run, in a browser and live."""

import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest

from tests.end_to_end.commands import REPOSITORY, environment, run_script
from tests.srt.helpers.browser import Browser
from tests.srt.helpers.report_runs import Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


def test_the_page_of_a_real_run_has_every_part(full_run):
    page = Page((full_run.folder / "report" / "report.html").read_text())
    expected = {"reward", "revise", "kl", "seconds", "throughput", "sft_loss", "sft_accuracy", "sft_lr"}
    assert expected <= page.charts.keys()
    assert page.points("reward", "validation avg@1")[0][0] == 0  # before the first step
    assert len(page.points("kl", "r = 0")) <= 10 and page.charts["kl"]["marks"] == [3, 6, 9]
    widgets = page.data["widgets"]
    assert widgets["problems"]["problems"] and widgets["attempts"]["run"]["attempts"]
    assert {sample["step"] for sample in widgets["samples"]["run"]} == set(range(10))
    assert "Hardware: " in page.text and "nan" not in page.text.lower().split()


@pytest.mark.parametrize("width", [1300, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_of_a_real_run_opens_without_errors(full_run, browser, width, dark):
    browser.open((full_run.folder / "report" / "report.html").as_uri(), width, dark=dark)
    assert browser.errors == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate("charts.all.size") > 12


def test_two_runs_are_named_and_overlaid(full_run, tmp_path):
    shutil.copytree(
        full_run.folder / "sd_zero", tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors")
    )
    run_file = tmp_path / "other" / "run.json"
    run_file.write_text(run_file.read_text().replace('"lr": 0.001', '"lr": 0.5'))
    outcome = run_script("report", {"OUTPUT_DIR": tmp_path / "out"}, str(full_run.folder), str(tmp_path / "other"))
    assert outcome.code == 0, outcome
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert page.data["charts"]["runs"] == [full_run.folder.name, "other"]
    assert "Differences of the runs" in page.headings and "0.5" in page.text


def test_a_live_report_serves_a_run_until_ctrl_c(full_run, tmp_path):
    script = REPOSITORY / "scripts" / "report.sh"
    process = subprocess.Popen(
        ["bash", script, full_run.folder, "--watch", "WATCH_PORT=0"],
        env=environment({}),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        url = next(filter(None, map(re.compile(r"http://127\.0\.0\.1:\d+/").search, process.stdout)))[0]
        with urllib.request.urlopen(url, timeout=120) as answer:
            assert "kl" in Page(answer.read().decode()).charts
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0 and out == "stopped\n" and err == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_step_is_one_sentence(full_run, tmp_path):
    outcome = run_script("report", {"SRT": full_run.folder / "collection", "OUTPUT_DIR": tmp_path / "out"})
    assert outcome.code == 2 and not (tmp_path / "out").exists()
    assert outcome.err == (
        f"error: SRT={full_run.folder}/collection was written by run_srt_data.sh, not by sft.sh: set COLLECTION "
        "to it\n"
    )
