"""The errors and the end of workers: a sentence instead of Ray's pages where one, or a whole node, is gone."""

import contextlib
import io
import time
from collections.abc import Iterator
from typing import Any

from srt.common.errors import UserError

NOTICE_SECONDS = 30.0  # within which Ray notices that a node is gone, whose neighbors may have failed before


@contextlib.contextmanager
def lost_workers_in_words(num_nodes: int) -> Iterator[None]:
    """Raises UserError for an error inside the block that comes from a lost worker or node; others pass.

    The cluster is asked: the block must be within this process's time in it.
    """
    nodes = _nodes(alive=True)  # Ray also lists those that were lost before this run
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if what := _what_is_gone(error, nodes, num_nodes):
            raise UserError(f"{what} the same command continues from the newest checkpoint") from error
        raise


def end_workers(owner: Any) -> None:
    """`owner`: NeMo-RL's Policy or VllmGeneration. Where one worker is gone, its way to end all of them fails, and
    the others are killed."""
    with contextlib.redirect_stdout(io.StringIO()):  # NeMo-RL prints that failure, which is no news by then
        if not owner.shutdown():
            kill_workers(owner)


def kill_workers(owner: Any) -> None:
    """End all workers, whatever they are doing. NeMo-RL's destructors would otherwise do so, and join whatever
    cluster they find where this process has left its own."""
    owner.worker_group.shutdown(force=True)


@contextlib.contextmanager
def user_errors_of_workers() -> Iterator[None]:
    """Raises a worker's UserError as such; Ray's has its traceback for a text."""
    try:
        yield
    except UserError as error:
        raise getattr(error, "cause", error) from None


def _what_is_gone(error: Exception, nodes: dict[str, str], num_nodes: int) -> str | None:
    """None for an error of another kind. `nodes`: those that were there, by id."""
    import ray

    if not isinstance(error, ray.exceptions.RayError):  # what a worker raises is one, too
        return None
    if num_nodes > 1:
        deadline = time.monotonic() + NOTICE_SECONDS
        while time.monotonic() < deadline:
            if dead := sorted(nodes[node] for node in _nodes(alive=False) if node in nodes):
                return f"a node of the Ray cluster is gone ({', '.join(dead)}); once it is back,"
            time.sleep(0.5)
    if isinstance(error, ray.exceptions.RayActorError | ray.exceptions.WorkerCrashedError):
        return "a worker was killed, for want of memory for example (WORKER_LOGS=1 shows its last output);"
    return None


def _nodes(alive: bool) -> dict[str, str]:
    """Node id -> address."""
    import ray

    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"] == alive}
