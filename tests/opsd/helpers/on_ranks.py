"""What the tests of sharded updates share: three updates of five pairs, and processes that each are a rank."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from opsd.hidden_states import lm_head, predicting_hidden
from opsd.kl import KLConfig, KLOutput
from opsd.logits import find_logit_transform
from opsd.nemo_rl.micro_batches import RankUpdate, rank_updates
from opsd.nemo_rl.worker.step import RankStepResult
from opsd.pair_kl import pair_kl
from opsd.pairs import SequencePair

# Seconds, for a busy machine: the processes take half a minute, nearly all of it to import their packages. A test
# that waits for them has this mark, since its own limit must be longer.
GENEROUS = 1500
waits_for_ranks = pytest.mark.timeout(3 * GENEROUS)


def three_updates(pairs: list[SequencePair]) -> dict[str, list[list[RankUpdate]]]:
    """By rank: "data" for two data-parallel ranks, "one" for ranks that do the same.

    The micro-batches of "one" are those of rank 0, then those of rank 1. `in_updates` has the same without ranks.
    """
    # Rank 1 has nothing to do in the second round of the first update.
    first, second = [[pairs[:2], [pairs[4]]], [[pairs[2]], []]], [[[pairs[3]]], [[pairs[0]]]]
    third = [[[pairs[1]]], [[pairs[2], pairs[4]]]]
    assigned = (first, second, third)
    together = [[[batch for rank in update for batch in rank if batch]] for update in assigned]
    return {
        "data": [[rank_updates(update)[rank] for update in assigned] for rank in (0, 1)],
        "one": [[rank_updates(update)[0] for update in together]],
    }


def in_updates(pairs: list[SequencePair]) -> list[list[SequencePair]]:
    """The pairs of each of `three_updates`, in the order of "one"."""
    return [
        [*pairs[:2], pairs[4], pairs[2]],
        [pairs[3], pairs[0]],
        [pairs[1], pairs[2], pairs[4]],
    ]


def run_ranks(script: Path, name: str, ranks: int, folder: Path, **settings: str) -> list[Any]:
    """`script name folder` in `ranks` processes; what each of them wrote to <folder>/<name><rank>.pt."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, script, name, folder],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    errors = [process.communicate(timeout=GENEROUS)[1] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(errors)
    return [torch.load(folder / f"{name}{rank}.pt", weights_only=False) for rank in range(ranks)]


def local_engines_kl(
    student: Any,
    teacher: Any,
    pairs: list[SequencePair],
    weight: float,
    kl_config: KLConfig = KLConfig(),  # noqa: B008 - frozen
    grad_eps: float = 0.0,
) -> KLOutput:
    """The loss as opsd/local/optimizer_step.py computes it."""
    with torch.no_grad():
        teacher_hidden = predicting_hidden(teacher, [pair.teacher for pair in pairs], 0)
    sequences = [pair.student for pair in pairs]
    student_hidden = predicting_hidden(student, sequences, 0)
    heads = [lm_head(model, find_logit_transform(model, "tiny")) for model in (student, teacher)]
    return pair_kl(student_hidden, heads[0], teacher_hidden, heads[1], sequences, weight, kl_config, grad_eps)


def outputs_in_order(results: list[RankStepResult], assigned: bool) -> list[KLOutput]:
    """Those of "one", whether its micro-batches were divided among the ranks or every rank had them all."""
    by_rank = [[update.outputs for update in result.updates] for result in (results if assigned else results[:1])]
    updates = [[output for outputs in update for output in outputs] for update in zip(*by_rank, strict=True)]
    return [output for update in updates for output in update if output is not None]


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], **tolerances: float) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        named = {"msg": lambda text, name=name: f"{name}: {text}"}
        torch.testing.assert_close(found[name], expected[name], **named, **tolerances)
