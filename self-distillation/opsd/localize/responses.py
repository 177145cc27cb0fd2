"""Graded responses: sampled from the student as in evaluation, or those of a run that exists."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd.localize.config import LocalizeConfig
from opsd.rollouts import Rollout
from srt.collect.collector import Collector, CollectorConfig
from srt.common.errors import UserError
from srt.common.files import parse_jsonl, read_json
from srt.contract.layout import Layout
from srt.contract.records import Problem, Response, from_line, unpack_ids
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


@dataclass(frozen=True)
class ExistingRun:
    """The folder of RUN. `student` and `teacher`: its models, as far as its run.json names them."""

    folder: Path
    identity: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "ExistingRun":
        """Raises UserError for a folder that holds no run with responses."""
        if not folder.is_dir():
            raise UserError(
                f"RUN={folder} is not a folder; expected the OUTPUT_DIR of evaluate.sh or run_srt_data.sh"
            )
        if not (folder / "attempts.jsonl").is_file():
            raise UserError(
                f"RUN={folder}: no attempts.jsonl; expected the OUTPUT_DIR of evaluate.sh or run_srt_data.sh, "
                "which log each response there"
            )
        path = folder / "run.json"
        return cls(folder, read_json(path).get("identity", {}) if path.is_file() else {})

    @property
    def student(self) -> str | None:
        return self.identity.get("model") or self.identity.get("model_path")

    @property
    def teacher(self) -> str | None:
        return None

    def responses(self, config: LocalizeConfig, layout: Layout) -> list[GradedResponse]:
        """Of the first MAX_SAMPLES problems the first NUM_SAMPLES responses each.

        Raises UserError when they were sampled from other prompts than the layout's, or there are none.
        """
        stored, expected = self.identity.get("prompt"), layout.prompt.as_dict()
        if stored is not None and stored != expected:
            raise UserError(
                f"RUN={self.folder} was sampled with the prompt settings {stored}, the student has {expected}: "
                "expected the same ones"
            )
        path = self.folder / "attempts.jsonl"
        data = path.read_bytes()
        complete = data[: data.rfind(b"\n") + 1].decode("utf-8")  # without a line that is being written
        records = [from_line(line) for line in parse_jsonl(complete, path)]
        chosen = [
            record
            for record in records
            if isinstance(record, Response)
            and record.problem_idx < config.max_samples
            and record.response_idx < config.num_samples
        ]
        if not chosen:
            raise UserError(f"{path}: no response of the first MAX_SAMPLES={config.max_samples} problems")
        largest = max(len(layout.tokenizer), 1 + max(layout.eot_ids))
        for record in chosen:
            if max(unpack_ids(record.y_init_ids), default=0) >= largest:
                raise UserError(
                    f"{path}: the response to {record.id} has a token that {layout.tokenizer.name_or_path} does "
                    "not have; it was sampled from a model with another tokenizer"
                )
        return [as_graded(record, layout) for record in sorted(chosen, key=lambda record: record.key)]
