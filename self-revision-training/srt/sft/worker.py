"""One of several training processes: python -m srt.sft.worker <what srt/sft/run.py prepared>, under accelerate."""

import os
import pickle
import sys
from pathlib import Path

from srt.common.errors import user_message


def main(prepared_path: Path) -> None:
    from srt.sft.launch import FSDP2, WORKER_ERROR, die_with_parent

    die_with_parent()
    os.environ.update(FSDP2)
    first = os.environ["RANK"] == "0"
    if not first:
        sys.stdout = open(os.devnull, "w")  # one voice
    import torch

    from srt.sft.run import train_stages

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        train_stages(pickle.loads(prepared_path.read_bytes()))
    except Exception as error:
        words = user_message(error)
        if words is None:
            raise
        if first:
            Path(os.environ[WORKER_ERROR]).write_text(words, encoding="utf-8")
        os._exit(2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
