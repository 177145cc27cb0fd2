"""A run of Phase 2, the same for every engine: its problems, what enters the loss, its limits, when things are
due."""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from opsd.config import RunConfig, identity
from opsd.pairs import SequencePair, TeacherCue, build_pair
from opsd.problem_order import ProblemOrder
from opsd.replay import Replay
from opsd.rollouts import BatchGrader, Rollout, RolloutWorker
from srt.common.disk import disk_bytes, shown_bytes
from srt.common.errors import UserError
from srt.common.files import JsonlLog
from srt.common.models import context_limit, padding_id, vocab_size
from srt.contract.layout import Layout
from srt.contract.model_identity import model_identity
from srt.contract.paths import dataset_or_default
from srt.contract.provenance import (
    CHECKPOINT_METADATA,
    fingerprint,
    known,
    model_revision,
    open_run,
    read_metadata,
)
from srt.contract.records import Problem
from srt.problems import ProblemSet, set_aside_bad_records
from srt.recipe import recipe_record
from srt.sampling.base import SamplingConfig


@dataclass(frozen=True)
class ValidationRules:
    """How validation samples, and at most how many tokens. `longest`: of any of its sequences; 0 without one."""

    sampling: SamplingConfig
    max_total_tokens: int
    max_revision_tokens: int
    longest: int


class Run:
    """One run in `output_dir`. Token limits beyond a model's context length are lowered, with a line that says
    so."""

    def __init__(
        self,
        config: RunConfig,
        layout: Layout,
        train_set: ProblemSet,
        validation_set: ProblemSet | None,
        output_dir: Path,
        srt_problems: bytes | None = None,
        replay: Replay | None = None,
    ):
        """`srt_problems`: the file with the problems that Phase 1 used, as it was when they were left out."""
        self.config = config
        self.layout = layout
        self.train_set = train_set
        self.validation_set = validation_set
        self.output_dir = output_dir
        self.srt_problems = srt_problems
        self.replay = replay
        self.order = ProblemOrder(len(train_set.problems), config.num_prompts_per_step, config.seed)
        self.total_steps = self.order.total_steps(config.max_num_steps, config.max_num_epochs)
        self.total_updates = self.total_steps * (config.num_prompts_per_step // config.train_global_batch_size)
        # Responses that OVER_ISSUE or ROLLOUT_AHEAD begins before their step.
        self.ahead = max(1, round(config.over_issue * config.num_prompts_per_step)) if config.over_issue else 0
        if config.rollout_ahead:
            self.ahead = config.num_prompts_per_step

        self.max_total_tokens = within_context(
            "MAX_TOTAL_SEQUENCE_LENGTH", config.max_total_sequence_length, config.student_model
        )
        self.max_teacher_tokens = within_context(
            "MAX_TEACHER_TOKENS", config.max_teacher_tokens, config.teacher_model
        )
        longest_cue = max(len(layout.cue(r)) for r in (0, 1))
        self.max_revision_tokens = min(self.max_teacher_tokens, 2 * self.max_total_tokens + longest_cue)
        self.sampling = SamplingConfig(config.temperature, config.top_p, tuple(layout.eot_ids))
        self.validation = self._validation_rules()
        self.max_model_len = max(self.max_total_tokens, self.validation.longest)
        self.teacher_vocab = vocab_size(config.teacher_model)
        if self.teacher_vocab < vocab_size(config.student_model):
            print(
                f"note: {config.teacher_model} has {self.teacher_vocab} vocab entries and {config.student_model} "
                f"{vocab_size(config.student_model)}: responses with a token that the teacher does not have stay "
                "out of the loss"
            )
        self.pad_id = padding_id(config.student_model, layout.tokenizer, layout.eot_ids[0])

    @property
    def longest_sequence(self) -> int:
        """The most tokens of a sequence that is trained on: a teacher's, or a revision tuple's of SRT_REPLAY."""
        return self.max_teacher_tokens if self.replay else self.max_revision_tokens

    # Its folder -----------------------------------------------------------------------------------------

    @property
    def student_folder(self) -> Path:
        """Where the result appears, once the run is complete."""
        return self.output_dir / "student"

    @property
    def is_complete(self) -> bool:
        """Raises UserError for a finished student that lacks files by now."""
        finished = (self.student_folder / CHECKPOINT_METADATA).is_file()
        return finished and read_metadata(str(self.student_folder)) is not None

    def claim_folder(self) -> bool:
        """False when the run is complete already.

        Raises UserError when the folder holds a run with other settings, or one that another process works on.
        """
        run_identity = identity(self.config) | {
            "student_model": model_identity(self.config.student_model),
            "teacher_model": model_identity(self.config.teacher_model),
            "dataset_fingerprint": self.train_set.fingerprint,
            "control_phrases": self.layout.phrases.as_dict(),
            "prompt": self.layout.prompt.as_dict(),
        }
        if self.replay:
            ids = [json.dumps(sequence.ids) for sequence in self.replay.sequences]
            run_identity["replay_fingerprint"] = fingerprint(*ids)
        config = asdict(self.config) | {"recipe": recipe_record(self.config, "distill")}
        models = (str(self.config.student_model), str(self.config.teacher_model))
        open_run(self.output_dir, run_identity, config, self.revisions(), models)
        if self.is_complete:
            print(f"self-distillation is complete: {self.student_folder}")
            self.drop_checkpoints()  # left if the run was killed right after its export
            return False
        set_aside_bad_records(self.train_set, self.output_dir)
        return True

    def drop_checkpoints(self) -> None:
        """Delete what only served to resume, but for KEEP_CHECKPOINTS_AFTER_END checkpoints."""
        parent, keep = self.output_dir / "checkpoints", self.config.keep_checkpoints_after_end
        checkpoints = sorted(parent.glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))
        dropped = checkpoints[: max(0, len(checkpoints) - keep)]
        freed = sum(disk_bytes(folder) for folder in dropped)
        for folder in dropped:
            shutil.rmtree(folder)
        if not keep:
            shutil.rmtree(parent, ignore_errors=True)
            shutil.rmtree(self.output_dir / "best", ignore_errors=True)  # of STOP_ON_COLLAPSE; exported by now
        if dropped:
            print(
                f"deleted {len(dropped)} checkpoint{'s' * (len(dropped) > 1)} that only served to resume "
                f"({shown_bytes(freed)}); KEEP_CHECKPOINTS_AFTER_END keeps them"
            )

    def revisions(self) -> dict[str, str]:
        """The commits of the hub models and datasets, as far as they are known."""
        dataset, _ = dataset_or_default(self.config.mode, self.config.train_dataset, self.config.train_subset)
        models = (self.config.student_model, self.config.teacher_model)
        return known({model: model_revision(model) for model in models} | {dataset: self.train_set.revision})

    # A step ---------------------------------------------------------------------------------------------

    def remaining_steps(self, start_step: int) -> range:
        return range(start_step, self.total_steps)

    def problems(self, step: int) -> list[Problem]:
        """A function of seed and step alone, so a resumed run sees the same ones. With OVER_ISSUE, a step also
        trains on those of its neighbors (response_queue.py)."""
        return [self.train_set.problems[index] for index in self.order.step(step)]

    def problem_at(self, place: int) -> Problem:
        """At a place in the endless order that `problems` cuts into steps."""
        return self.train_set.problems[self.order.at(place)]

    def rollout_worker(self, grader: BatchGrader, set_aside: JsonlLog) -> RolloutWorker:
        return RolloutWorker(
            self.layout,
            grader,
            self.max_total_tokens,
            self.max_revision_tokens,
            self.config.seed,
            set_aside,
        )

    def validation_worker(self, grader: BatchGrader, set_aside: JsonlLog) -> RolloutWorker:
        """`rollout_worker`, but with the lengths, temperature and top_p of validation."""
        rules = self.validation
        return replace(
            self.rollout_worker(grader, set_aside),
            max_total_tokens=rules.max_total_tokens,
            max_revision_tokens=rules.max_revision_tokens,
            max_response_tokens=self.config.val_max_tokens,
            sampling=rules.sampling,
        )

    def _validation_rules(self) -> "ValidationRules":
        """Those of training, changed by VAL_MAX_TOKENS, VAL_TEMPERATURE and VAL_TOP_P where they are set."""
        config = self.config
        sampling = replace(
            self.sampling,
            temperature=config.temperature if config.val_temperature is None else config.val_temperature,
            top_p=config.top_p if config.val_top_p is None else config.val_top_p,
        )
        if self.validation_set is None:
            return ValidationRules(sampling, self.max_total_tokens, self.max_revision_tokens, longest=0)
        total, revision = self.max_total_tokens, self.max_revision_tokens
        if config.val_max_tokens:
            prompt = max(len(self.layout.chat(problem.x)) for problem in self.validation_set.problems)
            cue = max(len(self.layout.cue(r)) for r in (0, 1))
            total = prompt + config.val_max_tokens
            revision = total + cue + config.val_max_tokens
            longest = revision if config.val_revise else total
            limit = within_context("validation with VAL_MAX_TOKENS", longest, config.student_model)
            total, revision = min(total, limit), min(revision, limit)
        return ValidationRules(sampling, total, revision, longest=revision if config.val_revise else total)

    def used_problems(self, finished_steps: int) -> list[Problem]:
        """The problems that were asked for in that many steps, each once, in the order of the dataset."""
        places = min(
            finished_steps * self.config.num_prompts_per_step + (self.ahead if finished_steps else 0),
            max(self.total_steps, finished_steps) * self.config.num_prompts_per_step,
        )
        used = {self.order.at(place) for place in range(places)}
        return [self.train_set.problems[index] for index in sorted(used)]

    def build_pairs(self, rollouts: list[Rollout], step: int) -> list[SequencePair]:
        """Both sequences of the responses that enter the loss. Raises UserError when none does, except where
        LOSS_ON=r0 leaves right ones out."""
        pairs = [pair for pair in self.all_pairs(rollouts) if self._enters_loss(pair)]
        left_out = self.config.loss_on == "r0" and any(rollout.r for rollout in rollouts)
        if not pairs and not left_out:
            raise UserError(
                f"step {step}: no response enters the loss ({len(rollouts)} of {self.config.num_prompts_per_step} "
                f"were graded); see {self.output_dir / 'set_aside.jsonl'}, raise MAX_TOTAL_SEQUENCE_LENGTH or "
                "MAX_TEACHER_TOKENS, or include truncated responses (INCLUDE_TRUNCATED=1)"
            )
        return pairs

    def all_pairs(self, rollouts: list[Rollout]) -> list[SequencePair]:
        """Both sequences of all responses that can be scored, whether they enter the loss or not."""
        cue = cast(TeacherCue, self.config.teacher_cue)  # one of its choices
        pairs = [
            build_pair(rollout, self.layout, self.max_teacher_tokens, cue, self.config.seed)
            for rollout in rollouts
        ]
        return [pair for pair in pairs if self.can_score(pair)]

    def can_score(self, pair: SequencePair) -> bool:
        """Whether the teacher's budget leaves something of y, and the teacher has all of its tokens."""
        return bool(pair.targets) and max(pair.teacher.ids) < self.teacher_vocab

    def _enters_loss(self, pair: SequencePair) -> bool:
        truncated = pair.rollout.finish_reason == "length"
        on_this_reward = self.config.loss_on == "all" or pair.rollout.r == 0
        return on_this_reward and (self.config.include_truncated or not truncated)

    # When things are due ----------------------------------------------------------------------------------

    def teacher_sync_due(self, finished_steps: int) -> bool:
        """By the clock: after TEACHER_SYNC_STEPS steps, or TEACHER_SYNC_EPOCHS passes over the problems."""
        config = self.config
        if config.teacher_sync == "steps":
            return finished_steps % config.teacher_sync_steps == 0
        if config.teacher_sync == "epochs":
            epochs = config.teacher_sync_epochs
            before, after = (self.order.epochs(steps) // epochs for steps in (finished_steps - 1, finished_steps))
            return before < after
        return False

    def checkpoint_due(self, finished_steps: int) -> bool:
        """After every SAVE_PERIOD steps, and at the end."""
        return finished_steps == self.total_steps or finished_steps % self.config.save_period == 0


def within_context(knob: str, tokens: int, model_path: str) -> int:
    """`tokens`, or the model's context length where that is smaller, with a line that says so."""
    limit = context_limit(model_path)
    if tokens > limit:
        print(f"{knob}: {tokens} tokens capped at {limit}, the context length of {model_path}")
    return min(tokens, limit)
