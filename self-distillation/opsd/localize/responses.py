"""Graded responses, sampled from the student as in evaluation."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from opsd.localize.config import LocalizeConfig
from opsd.rollouts import Rollout
from srt.collect.collector import Collector, CollectorConfig
from srt.common.errors import UserError
from srt.contract.layout import Layout
from srt.contract.records import Problem, Response, unpack_ids
from srt.sampling.from_config import sampler_from_config
from srt.verifiers.factory import open_grader


@dataclass(frozen=True)
class GradedResponse:
    """`problem` and `response`: their indices in the dataset and among the problem's responses."""

    problem: int
    response: int
    rollout: Rollout


def sample_responses(
    config: LocalizeConfig, model: str, layout: Layout, problems: list[Problem], folder: Path
) -> list[GradedResponse]:
    """NUM_SAMPLES responses of the model to each problem, in order. attempts.jsonl in `folder` holds those that
    are done: a killed run continues with them.

    Raises UserError when the verifier failed on all of them.
    """
    sampler, max_model_len = sampler_from_config(config, model, layout, problems)
    with closing(sampler), open_grader(config) as grader:
        collector_config = CollectorConfig(
            num_responses=config.num_samples,
            num_revisions=1,
            revise=frozenset(),
            revise_truncated=False,
            max_tokens=config.max_tokens,
            max_model_len=max_model_len,
            max_in_flight=config.batch_size * sampler.engines,
            seed=config.seed,
            selection=None,
        )
        collector = Collector(problems, layout, sampler, grader, collector_config, folder)
        collector.run()
    attempts = collector.attempts
    responses = [attempts.response(key) for key in sorted(attempts.responses)]
    collector.close()
    if not responses:
        raise UserError(f"no response could be graded; {attempts.set_aside_path} has each with its reason")
    return [as_graded(response, layout) for response in responses]


def as_graded(response: Response, layout: Layout) -> GradedResponse:
    problem = Problem(response.id, response.x, response.ground_truth, source=response.source)
    rollout = Rollout(
        problem=problem,
        chat=layout.chat(response.x),
        y=unpack_ids(response.y_init_ids),
        logprobs=[],
        finish_reason=response.y_init_finish_reason,
        r=response.r,
    )
    return GradedResponse(response.problem_idx, response.response_idx, rollout)
