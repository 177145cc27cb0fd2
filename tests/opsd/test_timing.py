"""What a start says about where its time went."""

import re
import time

from opsd.timing import report_start, span
from tests.opsd.helpers.problems import PROBLEMS


def test_a_start_names_its_parts_with_the_longest_first(capsys):
    with report_start():
        with span("short"):
            pass
        with span("long"):
            time.sleep(1.1)
        with span("long"):
            time.sleep(0.5)
    seconds = re.fullmatch(r"started in (\d+) s \(long (\d+), .*\)\n", capsys.readouterr().out)
    assert seconds and int(seconds[1]) >= int(seconds[2]) >= 2


def test_the_local_engine_says_what_its_start_took(open_run, tiny_checkpoint, capsys):
    open_run(tiny_checkpoint, PROBLEMS)
    (line,) = re.findall(r"started in \d+ s \((.*)\)", capsys.readouterr().out)
    assert {part.split()[0] for part in line.split(", ")} == {
        "student",
        "teacher",
        "optimizer",
        "sampler",
        "other",
    }
