"""One of several training processes: python -m srt.sft.worker <pickled TrainingPlan>, under accelerate."""

import contextlib
import logging
import os
import pickle
import sys
from pathlib import Path

from srt.common.entry_point import final_message
from srt.common.parent_death import die_with_parent


def main(plan_path: Path) -> None:
    from srt.sft.launch import FSDP2, WORKER_ERROR, end_training_process

    die_with_parent()
    os.environ.update(FSDP2)
    is_rank0 = os.environ["RANK"] == "0"
    if not is_rank0:
        sys.stdout = open(os.devnull, "w")  # only rank 0 prints
    accept_unused_lm_head()
    import torch

    from srt.sft.stages import train_stages

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        train_stages(pickle.loads(plan_path.read_bytes()))
    except Exception as error:
        report(error, Path(os.environ[WORKER_ERROR]))
        os._exit(2)
    end_training_process()


def accept_unused_lm_head() -> None:
    """Drop FSDP2's warning (torch 2.11) that a module it shards did not run its forward pass.

    It is the LM head, whose weight the fused loss reads. That weight is in a group that stays gathered after the
    forward pass, so nothing is missing.
    """
    logger = logging.getLogger("torch.distributed.fsdp.fully_shard")
    logger.addFilter(lambda record: "did not run forward before backward" not in record.getMessage())


def report(error: Exception, path: Path) -> None:
    """For the launcher. The first process that fails has the cause; the others may only miss that one."""
    with contextlib.suppress(FileExistsError), open(path, "x", encoding="utf-8") as file:
        file.write(final_message(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
