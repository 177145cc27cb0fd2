"""A worker or a whole node that is gone, in one sentence instead of Ray's pages."""

import contextlib
import io
import time
from collections.abc import Iterator
from typing import Any

from srt.common.errors import UserError, reason_of

NOTICE_SECONDS = 30.0  # within which Ray notices that a node is gone, whose neighbors may have failed before


@contextlib.contextmanager
def lost_workers_in_words(num_nodes: int) -> Iterator[None]:
    """Raises UserError for an error inside the block that comes from a lost worker or node; others pass.

    The cluster is asked: the block must end before this process leaves it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if what := _what_is_gone(error, num_nodes):
            raise UserError(
                f"{what}, and the run ended with it ({reason_of(error)[:200]}); the same command continues from "
                "the newest checkpoint"
            ) from error
        raise


def end_workers(owner: Any) -> None:
    """`owner`: NeMo-RL's Policy or VllmGeneration. Where one worker is gone, its way to end all of them fails.

    The others are then killed: otherwise NeMo-RL's destructors would join the cluster once more to end them.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # NeMo-RL prints that failure, which is no news by then
        if not owner.shutdown():
            owner.worker_group.shutdown(force=True)


def _what_is_gone(error: Exception, num_nodes: int) -> str | None:
    """None for an error of another kind."""
    import ray

    if not isinstance(error, ray.exceptions.RayError):  # what a worker raises is one, too
        return None
    if num_nodes > 1:
        deadline = time.monotonic() + NOTICE_SECONDS
        while time.monotonic() < deadline:
            if dead := _dead_nodes():
                return f"a node of the Ray cluster is gone ({', '.join(dead)}); bring it back"
            time.sleep(0.5)
    if isinstance(error, ray.exceptions.RayActorError | ray.exceptions.WorkerCrashedError):
        return "a worker of ENGINE=nemo-rl was killed (out of memory, for example; WORKER_LOGS=1 shows its output)"
    return None


def _dead_nodes() -> list[str]:
    import ray

    return [node["NodeManagerAddress"] for node in ray.nodes() if not node["Alive"]]
