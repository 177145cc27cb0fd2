"""The verifier of Phase 1 as a NeMo-RL environment: one turn, reward r."""

from typing import Any

import ray
import torch
from nemo_rl.distributed.batched_data_dict import BatchedDataDict
from nemo_rl.environments.interfaces import EnvironmentInterface, EnvironmentReturn

from srt.verifiers.factory import open_grader
from srt.verifiers.types import VerifierError


class VerifierEnvironmentImpl(EnvironmentInterface):
    """config: `grading`, a GradingConfig, from which srt.verifiers.factory opens the verifier.

    A sample's metadata hold `problem` and `finish_reason`; they come back with `extracted`, `reason` and `error`:
    None, or the arguments of the VerifierError that was raised instead of a verdict. The reward is then NaN, never
    0.
    """

    def __init__(self, config: dict[str, Any]):
        self.grader = open_grader(config["grading"])

    def step(
        self, message_log_batch: list[list[dict[str, Any]]], metadata: list[dict[str, Any]]
    ) -> EnvironmentReturn:
        outcomes = self.grader.grade_all(
            [
                (log[-1]["content"], entry["problem"], entry["finish_reason"])
                for log, entry in zip(message_log_batch, metadata, strict=True)
            ]
        )
        rewards, returned = [], []
        for outcome in outcomes:
            if isinstance(outcome, VerifierError):
                rewards.append(float("nan"))
                returned.append({"extracted": "", "reason": "", "error": (str(outcome), outcome.kind)})
            else:
                rewards.append(float(outcome.correct))
                returned.append({"extracted": outcome.extracted, "reason": outcome.reason, "error": None})
        count = len(outcomes)
        return EnvironmentReturn(
            observations=[{"role": "environment", "content": ""}] * count,
            metadata=returned,
            next_stop_strings=[None] * count,
            rewards=torch.tensor(rewards),
            terminateds=torch.ones(count, dtype=torch.bool),
            answers=[entry["extracted"] for entry in returned],
        )

    def global_post_process_and_metrics(self, batch: BatchedDataDict) -> tuple[BatchedDataDict, dict]:
        """Nothing: both engines compute their metrics in one place (opsd/metrics.py)."""
        return batch, {}


@ray.remote
class VerifierEnvironment(VerifierEnvironmentImpl):
    pass
