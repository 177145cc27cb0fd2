"""RUN: the graded responses of a run that exists, which may still be in progress."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd.localize.config import LocalizeConfig
from opsd.localize.responses import GradedResponse, as_graded
from opsd.rollouts import Rollout
from srt.common.errors import UserError
from srt.common.files import parse_jsonl
from srt.contract.layout import Layout
from srt.contract.provenance import read_run
from srt.contract.records import Problem, Response, from_line, unpack_ids

EXPECTED = "expected the OUTPUT_DIR of evaluate.sh, run_srt_data.sh or distill.sh"
ATTEMPTS, SAMPLES = "attempts.jsonl", "samples.jsonl"  # of Phase 1 and evaluation; of Phase 2


@dataclass(frozen=True)
class ExistingRun:
    """The folder of RUN. `log`: the file with its responses; `identity`, `config`: of run.json, {} without one."""

    folder: Path
    log: Path
    identity: dict[str, Any]
    config: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "ExistingRun":
        """Raises UserError for a folder that holds no run with responses."""
        if not folder.is_dir():
            raise UserError(f"RUN={folder} is not a folder; {EXPECTED}")
        log = next((folder / name for name in (ATTEMPTS, SAMPLES) if (folder / name).is_file()), None)
        if log is None:
            raise UserError(
                f"RUN={folder} has neither {ATTEMPTS} nor {SAMPLES}; {EXPECTED}, which log responses there"
            )
        begun = read_run(folder) or {}
        config = begun.get("config")
        return cls(folder, log, begun.get("identity", {}), config if isinstance(config, dict) else {})

    @property
    def student(self) -> str | None:
        """The model that the responses are of; in Phase 2 the one that it began with."""
        return self.config.get("model_path") or self.config.get("student_model")

    @property
    def teacher(self) -> str | None:
        """Of Phase 2."""
        return self.config.get("teacher_model")

    def responses(self, config: LocalizeConfig, layout: Layout) -> list[GradedResponse]:
        """Of the first MAX_SAMPLES problems the first NUM_SAMPLES responses each. Of Phase 2 the first MAX_SAMPLES
        responses that it logged.

        Raises UserError when they were sampled from other prompts or another tokenizer, or there are none.
        """
        stored, expected = self.identity.get("prompt"), layout.prompt.as_dict()
        if stored is not None and stored != expected:
            raise UserError(
                f"RUN={self.folder} was sampled with the prompt settings {stored}, the student has {expected}: "
                "set SYSTEM_PROMPT, PROMPT_SUFFIX and CHAT_TEMPLATE_KWARGS as they were there, or use another RUN"
            )
        data = self.log.read_bytes()
        complete = data[: data.rfind(b"\n") + 1]  # without a line that is being written
        read = self._of_attempt if self.log.name == ATTEMPTS else self._of_sample
        chosen = []
        for number, line in enumerate(parse_jsonl(complete, self.log), start=1):
            try:
                graded = read(number, line, config, layout)
            except UserError as error:
                raise UserError(f"{self.log}, line {number}: {error}") from error
            except (LookupError, TypeError, ValueError) as error:
                raise UserError(
                    f"{self.log}, line {number}: expected a graded response, found {line!r:.80}; delete that "
                    "line, or use another RUN"
                ) from error
            if graded is not None:
                chosen.append(graded)
        chosen.sort(key=lambda graded: (graded.problem, graded.response))
        if not chosen:
            raise UserError(f"{self.log}: no response of the first MAX_SAMPLES={config.max_samples} problems")
        largest = max(len(layout.tokenizer) - 1, *layout.eot_ids)
        for graded in chosen:
            if max(graded.rollout.y, default=0) > largest:
                raise UserError(
                    f"{self.log}: the response to {graded.rollout.problem.id} has a token that "
                    f"{layout.tokenizer.name_or_path} does not have; it was sampled with another tokenizer"
                )
        return chosen

    @staticmethod
    def _of_attempt(
        number: int, line: dict[str, Any], config: LocalizeConfig, layout: Layout
    ) -> GradedResponse | None:
        """Without evaluation's greedy responses, whose index is negative (GREEDY of srt.collect.collector)."""
        record = from_line(line)
        if not isinstance(record, Response):
            return None
        is_chosen = record.problem_idx < config.max_samples and 0 <= record.response_idx < config.num_samples
        return as_graded(record, layout) if is_chosen else None

    @staticmethod
    def _of_sample(
        number: int, line: dict[str, Any], config: LocalizeConfig, layout: Layout
    ) -> GradedResponse | None:
        if number > config.max_samples:
            return None
        if "ids" not in line:
            raise UserError(
                "no token ids, which version 0.2 and earlier did not log; set DATASET instead of RUN to sample "
                "responses"
            )
        problem = Problem(f"{line['id']}, step {line['step']}", line["x"], answer="")
        y = unpack_ids(line["ids"])
        rollout = Rollout(problem, layout.chat(line["x"]), y, [], line["finish_reason"], line["r"])
        return GradedResponse(number - 1, 0, rollout)
