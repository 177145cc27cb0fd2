"""How every command ends: with its result, or with one sentence and an exit code that says what happened.

    0 done · 1 a fault of this program · 2 something that the user can correct
    128 + n stopped by signal n: 130 Ctrl-C, 143 kill, 141 whoever read the output is gone

Imports nothing but the standard library, so that nothing that can be missing or slow comes before it.
"""

import os
import platform
import select
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from srt.common.errors import reason_of, user_message

# Python's semaphore tracker warns about vLLM's engines, which are killed at the end, and then cleans up anyway.
SILENCED_WARNINGS = "ignore::UserWarning:multiprocessing.resource_tracker"
CONTINUES = "the same command continues from here"
FAULT, CORRECTABLE, SIGNALLED = 1, 2, 128


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which then end a run as Ctrl-C does: what is open is closed."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def run_entry_point(main: Callable[[list[str]], None]) -> None:
    """Run an entry point's main(argv) and exit with one of the codes above, unless it returns."""
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), SILENCED_WARNINGS]))
    code = SIGNALLED + signal.SIGINT
    handlers: dict[int, Any] = {}
    try:
        _prepare_streams()
        handlers = _raise_on_signals()
        main(sys.argv[1:])
        sys.stdout.flush()
        return
    except KeyboardInterrupt as stop:
        _ignore_ctrl_c()
        number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
        by = f" by {signal.Signals(number).name}" if number != signal.SIGINT else ""
        code = SIGNALLED + number
        _say(f"\nstopped{by}; {CONTINUES}")
    except Exception as error:  # noqa: BLE001 - the last place where it can become a sentence
        _ignore_ctrl_c()
        code = _end_with(error)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    sys.exit(code)


def final_message(error: Exception) -> str:
    """The sentence for any error; that of a fault names the file with the traceback and how to report it."""
    return user_message(error) or _fault(error)


def _end_with(error: Exception) -> int:
    if isinstance(error, BrokenPipeError) and _reader_is_gone():
        _drop_output()
        if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
            return 0
        _say(f"error: whoever read this output has ended (a closed pipe), so the run stopped too; {CONTINUES}")
        return SIGNALLED + signal.SIGPIPE
    message = user_message(error)
    _say(f"error: {message or _fault(error)}")
    return FAULT if message is None else CORRECTABLE


def _prepare_streams() -> None:
    """Each line leaves at once, into a pipe too, and characters that the terminal's encoding lacks are escaped."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace", line_buffering=True)


def _raise_on_signals() -> dict[int, Any]:
    """Signals that are ignored, as under nohup, stay so. Returns the handlers that were there before."""
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a child that was forked off
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise Terminated(number)

    replaced = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            replaced[number] = signal.signal(number, handle)
    return replaced


def _ignore_ctrl_c() -> None:
    """What follows are a sentence and the end of the process, which a second Ctrl-C would only litter."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _reader_is_gone() -> bool:
    """Whether standard output or error is a pipe that nobody reads; other pipes break for other reasons."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)  # errors are always reported
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _drop_output() -> None:
    """What is still in Python's buffers goes nowhere, instead of failing again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _fault(error: Exception) -> str:
    name = Path(sys.argv[0]).stem or "python"
    what = f"{type(error).__name__}: {reason_of(error)}"
    details = [
        f"command: {shlex.join(sys.argv)}",
        f"Python: {sys.version.split()[0]} in {sys.prefix} on {platform.platform()}",
        "",
        "".join(traceback.format_exception(error)),
    ]
    path = Path(tempfile.gettempdir()) / f"sd_zero_{name}_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}.txt"
    try:
        path.write_text("\n".join(details), encoding="utf-8", errors="backslashreplace")
    except OSError:
        traceback.print_exception(error)
        return f"{what} (a fault of this program; its traceback is above, please report it)"
    title = shlex.quote(f"{name}: {type(error).__name__}")
    return (
        f"{what} (a fault of this program; its traceback is in {path}, and this reports it: gh issue create "
        f"--title {title} --body-file {path})"
    )
