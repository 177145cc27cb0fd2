"""What progress looks like on a terminal, in a file, and while nothing can be counted."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from srt.common.progress import Progress, describe_processes, heartbeat

PHASE1 = Path(__file__).resolve().parents[3] / "self-revision-training"
JOB = """
from srt.common.progress import Progress, write_line
import srt.common.progress as module
module.REFRESH_SECONDS = 0.0
with Progress("D_revision") as bar:
    for kept in range(1, 201):
        bar.show(kept / 200, f"{kept * 30:,}/6,000 kept", "first try 41.2%", "wrong->right {12.3%}",
                 "23,800 tok/s", "1,234/90,000 problems", "64 in flight")
        if kept == 100:
            write_line("a message of its own")
"""


def run_in_terminal(program: str, columns: int) -> str:
    """What a terminal of that width receives from a Python program."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = os.environ | {"PYTHONPATH": str(PHASE1)}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=end, stderr=end, env=environment)
    os.close(end)
    received = b""
    try:
        while part := os.read(terminal, 65536):
            received += part
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0, received
    return received.decode()


def test_a_bar_fits_80_columns_and_drops_whole_figures_the_least_important_first():
    received = run_in_terminal(JOB, 80)
    bars = [part for part in re.split(r"[\r\n]+", received) if part.startswith("D_revision")]
    assert len(bars) > 100
    assert all(len(bar.rstrip()) < 80 for bar in bars)
    last = bars[-1].rstrip()
    assert last == "D_revision 100%|██████████| 6,000/6,000 kept, first try 41.2%"
    middle = next(bar for bar in bars if "3,000/6,000" in bar).rstrip()
    assert re.fullmatch(r"D_revision  50%\|█████     \| 3,000/6,000 kept, \d\d:\d\d left, first try 41.2%", middle)
    assert "a message of its own\r\n" in received


def test_a_wide_terminal_shows_every_figure():
    bars = run_in_terminal(JOB, 160).split("\r")
    assert any("wrong->right {12.3%}, 23,800 tok/s, 1,234/90,000 problems, 64 in flight" in bar for bar in bars)


def test_a_file_gets_a_line_per_interval_and_one_at_the_end_without_carriage_returns():
    file = io.StringIO()
    with Progress("stage 1", stream=file, line_seconds=3600) as bar:
        for update in range(1, 101):
            bar.show(update / 100, f"{update}/100 updates", "loss 0.512", "")
    first, last = file.getvalue().splitlines()
    assert re.fullmatch(r"stage 1: 1%, 1/100 updates, \d\d:\d\d left, loss 0.512", first)
    assert last == "stage 1: 100%, 100/100 updates, loss 0.512"
    file = io.StringIO()
    with Progress("stage 1", stream=file, line_seconds=0) as bar:
        for update in range(1, 11):
            bar.show(update / 10, f"{update}/10 updates")
    assert file.getvalue().count("\n") == 10 and "\r" not in file.getvalue()


def test_a_job_with_lines_of_its_own_prints_nothing_into_a_file():
    file = io.StringIO()
    with Progress("step", stream=file, line_seconds=None) as bar:
        bar.show(0.5, "1/2")
    assert file.getvalue() == ""


def test_the_time_left_counts_from_what_was_there_at_the_start(monkeypatch):
    bar = Progress("stage 1", initial=0.5, stream=io.StringIO())
    assert bar.left == ""
    bar.show(0.5, "5/10")
    assert bar.left == ""  # nothing done yet
    monkeypatch.setattr(time, "monotonic", lambda started=bar._started: started + 60)
    bar.show(0.75, "7/10")
    assert bar.left == "01:00 left"  # a quarter took a minute, a quarter remains
    bar.show(1.0, "10/10")
    assert bar.left == ""


def test_a_heartbeat_says_what_is_being_done_until_the_work_ends(capsys):
    with heartbeat("vLLM is starting", lambda: "loading weights", seconds=0.01):
        deadline = time.monotonic() + 60
        printed = ""
        while printed.count("\n") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
            printed += capsys.readouterr().out
    assert printed.startswith("vLLM is starting (00:00 so far: loading weights)\n")
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().out == ""


def test_processes_are_described_by_their_work_and_those_that_ended_are_left_out():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    text = describe_processes({os.getpid(), ended.pid})
    assert re.fullmatch(r"1 process, \d+ s of processor time, \d+\.\d GiB of memory", text)
    assert describe_processes({ended.pid}) == ""
