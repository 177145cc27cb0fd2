"""How commands end: each case is a program of its own, so that exit codes, pipes and signals are real."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys
from srt.common.entry_point import run_entry_point
def main(argv):
{body}
run_entry_point(main)
"""
FOREVER = """
print("started")
import time
while True: time.sleep(0.05)
"""


def start(body: str, *argv: str, **options) -> subprocess.Popen:
    program = PROGRAM.format(body="".join(f"    {line}\n" for line in body.strip().splitlines()))
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([sys.executable, "-c", program, *argv], **options)


def run(body: str, *argv: str, **options) -> tuple[int, str, str]:
    process = start(body, *argv, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_an_error_of_the_user_is_one_sentence():
    body = "from srt.common.errors import UserError\nraise UserError('LR=0: must be above 0')"
    assert run(body) == (2, "", "error: LR=0: must be above 0\n")


def test_a_fault_is_one_sentence_with_the_file_of_the_traceback_and_the_command_that_reports_it(tmp_path):
    code, out, err = run("{}['key']", "a=1", env=os.environ | {"TMPDIR": str(tmp_path)})
    assert (code, out) == (1, "") and err.count("\n") == 1
    (path,) = tmp_path.glob("sd_zero_*.txt")
    assert err.startswith("error: KeyError: 'key' (a fault of this program; its traceback is in ")
    assert f"gh issue create --title '-c: KeyError' --body-file {path})" in err
    content = path.read_text()
    assert "Traceback (most recent call last)" in content and "command: -c a=1" in content


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("import no_such_package", "lacks what this command needs: No module named 'no_such_package'"),
        ("raise MemoryError('17 GB')", "not enough memory (17 GB)"),
        ("import torch; raise torch.OutOfMemoryError('CUDA out of memory')", "not enough memory (CUDA out of"),
        (
            "open('/dev/full', 'w').writelines(['x' * 10_000])",
            "a file could not be written (No space left on device)",
        ),
    ],
)
def test_what_an_environment_or_a_machine_lacks_is_no_fault_of_the_program(body, sentence):
    code, _, err = run(body)
    assert code == 2 and sentence in err and err.count("error: ") == 1, err


def test_an_import_that_this_program_itself_should_have_is_a_fault():
    assert run("import srt.no_such_module")[0] == 1


def test_a_closed_pipe_is_not_success():
    reader, writer = os.pipe()
    process = start("while True: print('line')", stdout=writer)
    os.close(writer)
    os.read(reader, 4)
    os.close(reader)
    assert process.stderr is not None
    assert process.stderr.read() == (
        "error: whoever read this output has ended (a closed pipe), so the run stopped too; the same command "
        "continues from here\n"
    )
    assert process.wait(timeout=60) == 141


def test_help_into_a_closed_pipe_ends_quietly():
    reader, writer = os.pipe()
    process = start("while True: print('line')", "--help", stdout=writer)
    os.close(writer)
    os.close(reader)
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 0


def test_both_outputs_into_a_closed_pipe_is_not_success_either():
    reader, writer = os.pipe()
    process = start("while True: print('line', file=sys.stderr)", stdout=writer, stderr=writer)
    os.close(writer)
    os.close(reader)
    assert process.wait(timeout=60) == 141


def test_another_pipe_that_breaks_is_a_fault():
    body = "import os\nr, w = os.pipe()\nos.close(r)\nos.write(w, b'x')"
    code, _, err = run(body)
    assert code == 1 and err.startswith("error: BrokenPipeError: ")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGINT, "stopped; the same"),
        (signal.SIGTERM, "stopped by SIGTERM; the same"),
        (signal.SIGHUP, "stopped by SIGHUP; the same"),
    ],
)
def test_a_signal_ends_a_run_after_what_is_open_was_closed(number, message):
    body = "import time\ntry:\n  print('started')\n  time.sleep(60)\nfinally: print('closed')"
    process = start(body, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + number, "closed\n")
    assert err.strip() == f"{message} command continues from here"


def test_a_hangup_that_is_ignored_stays_ignored():
    process = start(FOREVER, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    assert process.communicate(timeout=60)[1].startswith("\nstopped by SIGTERM")


def test_a_forked_child_ends_silently_by_sigterm():
    body = """
import os, signal, time
child = os.fork()
if not child: time.sleep(60)
time.sleep(0.3)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(body) == (0, "-15\n", "")


def test_characters_that_the_terminal_does_not_know_are_escaped():
    env = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    code, out, _ = run(r"print('5 \u2264 \u03c0')", env=env)
    assert (code, out) == (0, "5 \\u2264 \\u03c0\n")


def test_nothing_but_the_standard_library_is_imported_before_ctrl_c_is_caught():
    listing = (
        "import sys; before = set(sys.modules); import srt.common.entry_point; print(*set(sys.modules) - before)"
    )
    out = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout
    names = {name.partition(".")[0] for name in out.split()}
    assert names - set(sys.stdlib_module_names) == {"srt"}


def test_every_entry_point_imports_nothing_else_at_its_top():
    root = Path(__file__).resolve().parents[3]
    files = [*(root / "self-revision-training").glob("*.py"), root / "self-distillation/run_distillation.py"]
    assert len(files) >= 7
    for file in files:
        imports = re.findall(r"^(?:from|import) .*", file.read_text(), re.MULTILINE)
        assert imports == ["from srt.common.entry_point import run_entry_point"], file
