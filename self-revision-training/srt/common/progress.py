"""Progress of long work: a bar on a terminal, lines in a file or pipe, signs of life while nothing finishes."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from tqdm import tqdm

LINE_SECONDS = 30.0  # between lines in a file or pipe
BEAT_SECONDS = 30.0  # between signs of life
REFRESH_SECONDS = 0.3  # of the bar on a terminal
BAR_WIDTH = 10


class Progress:
    """How far a job is. On a terminal a bar on one line; elsewhere a line every `line_seconds`, never a "\\r".

    `initial`: the fraction (0 to 1) that was done before this process, which the time that is left does not count.
    `line_seconds`: None for a job that prints lines of its own.
    """

    def __init__(
        self,
        title: str,
        initial: float = 0.0,
        stream: TextIO | None = None,
        line_seconds: float | None = LINE_SECONDS,
    ):
        self.title = title
        self.stream = stream or sys.stderr
        self._line_seconds = line_seconds
        self._initial = self._fraction = min(initial, 1.0)
        self._started = self._shown_at = time.monotonic()
        self._latest: tuple[str, ...] = ()
        self._shown: tuple[str, ...] | None = None
        self._bar = None
        if self.stream.isatty():
            self._bar = tqdm(total=1.0, file=self.stream, bar_format="{desc}", leave=True, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def elapsed(self) -> float:
        """Seconds since the job began in this process."""
        return time.monotonic() - self._started

    @property
    def left(self) -> str:
        """The time that is left at the mean speed so far, as in "1:05:00 left"; "" while nothing is known."""
        done = self._fraction - self._initial
        if done <= 0 or self._fraction >= 1:
            return ""
        return f"{tqdm.format_interval(self.elapsed * (1 - self._fraction) / done)} left"

    @property
    def due(self) -> bool:
        """Whether `show` would show something now."""
        interval = self._line_seconds if self._bar is None else REFRESH_SECONDS
        if interval is None:
            return False
        return self._shown is None or time.monotonic() - self._shown_at >= interval

    def show(self, fraction: float, *figures: str) -> None:
        """`fraction` of the whole job is done. `figures`, in words, the most important ones first: a terminal
        shows as many as fit into its width."""
        self._fraction = min(fraction, 1.0)
        self._latest = tuple(figure for figure in figures if figure)
        if self.due:
            self._print()

    def message(self, text: str) -> None:
        """A line of its own in the output, above the bar."""
        write_line(text)

    def close(self) -> None:
        """Show the last state."""
        if self._latest and (self._bar is not None or self._line_seconds is not None):
            self._print()
        if self._bar is not None:
            self._bar.close()

    def _print(self) -> None:
        figures = [f"{self._fraction:.0%}", *self._latest[:1], self.left, *self._latest[1:]]
        figures = [figure for figure in figures if figure]
        self._shown_at = time.monotonic()
        if self._bar is not None:
            self._shown = self._latest
            # Braces are tqdm's own here.
            self._bar.bar_format = self._bar_text(figures).replace("{", "{{").replace("}", "}}")
            self._bar.bar_format = self._bar.bar_format.replace("\0", f"{{bar:{BAR_WIDTH}}}")
            self._bar.n = self._fraction
            self._bar.refresh()
        elif self._shown != self._latest:
            self._shown = self._latest
            print(f"{self.title}: {', '.join(figures)}", file=self.stream, flush=True)

    def _bar_text(self, figures: list[str]) -> str:
        """title  31%|\\0| 1,860/6,000 kept, 2:10:00 left, ... The \\0 stands for the bar."""
        columns = _columns(self.stream) - 1  # a full last column would break the line on some terminals
        text, shown = f"{self.title} {figures[0]:>4}|\0|", 0
        for figure in figures[1:]:
            separator = ", " if shown else " "
            if len(text) + BAR_WIDTH - 1 + len(separator) + len(figure) > columns:
                break
            text, shown = text + separator + figure, shown + 1
        return text


def no_bars_in_files() -> None:
    """Keep the download bars of Hugging Face's libraries, which are imported later, out of files and pipes."""
    if not sys.stderr.isatty():
        for library in ("HF_HUB", "HF_DATASETS"):
            os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")


def write_line(text: str) -> None:
    """Print a line without breaking a bar that is on the screen."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


@contextlib.contextmanager
def heartbeat(what: str, doing: Callable[[], str] | None = None, seconds: float | None = None) -> Iterator[None]:
    """While the block runs, print every BEAT_SECONDS that it still does, and what `doing()` says about it."""

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS if seconds is None else seconds):
            activity = doing() if doing else ""
            time_so_far = tqdm.format_interval(time.monotonic() - started)
            write_line(f"{what} ({time_so_far} so far{f': {activity}' if activity else ''})")

    ended, started = threading.Event(), time.monotonic()
    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def describe_processes(pids: Iterable[int]) -> str:
    """What can be seen of working processes from outside: their number, processor time and memory."""
    import psutil  # not among the light core's requirements

    seconds, memory, alive = 0.0, 0, 0
    for pid in list(pids):
        try:
            process = psutil.Process(pid)
            times = process.cpu_times()
            seconds, memory, alive = (
                seconds + times.user + times.system,
                memory + process.memory_info().rss,
                alive + 1,
            )
        except psutil.Error:  # it ended meanwhile
            continue
    if not alive:
        return ""
    plural = "es" if alive > 1 else ""
    return f"{alive} process{plural}, {seconds:.0f} s of processor time, {memory / 2**30:.1f} GiB of memory"


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):  # not a file of the system
        return 80
