"""Work in a thread beside the main one."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Background:
    """One thread for as long as the object lives: the system ends what some libraries start (a grader's processes)
    together with the thread that started it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="background")

    @contextmanager
    def running(self, work: Callable[[threading.Event], T]) -> Iterator[Future[T]]:
        """While the block runs, so does `work`; the block ends when both have ended.

        `work` is given an event that is set when the block fails: it should then return or raise soon. What
        `work` itself raises is raised by `result()`, which the block is to call.
        """
        stop = threading.Event()
        future = self._thread.submit(work, stop)
        try:
            yield future
        except BaseException:
            stop.set()
            raise
        finally:
            wait([future])
