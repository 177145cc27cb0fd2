"""One model: its folder, its identity, its samples."""

from collections.abc import Collection
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from srt.collect.attempts import sound_records
from srt.collect.collector import GREEDY, Collector, CollectorConfig, logs_logprob
from srt.collect.consumed import consumed_by_checkpoint, overlap
from srt.common.errors import UserError
from srt.common.files import JsonlLog
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.layout import Layout
from srt.contract.model_identity import model_identity
from srt.contract.provenance import known, model_revision, open_run
from srt.contract.records import Problem, SampleKey
from srt.evaluation.config import CONFIDENCE, NONE, ORACLE, EvaluateConfig
from srt.evaluation.reuse import ATTEMPTS, reuse_samples
from srt.evaluation.revising import cue_of, least_confident, phrase_after, revised_rewards
from srt.evaluation.samples import EvaluatedSample, ProblemSamples, group_by_problem
from srt.problems import ProblemSet
from srt.recipe import recipe_record
from srt.sampling.base import LazySampler, SamplingConfig
from srt.sampling.from_config import sampler_from_config
from srt.verifiers.factory import judge_config
from srt.verifiers.types import Grader


@dataclass(frozen=True)
class EvaluatedModel:
    """A model under evaluation. `trained_on`: phase -> number of these problems that it trained the model on."""

    label: str
    path: str
    folder: Path
    layout: Layout
    trained_on: dict[str, int]


def open_model(
    label: str,
    path: str,
    folder: Path,
    output_dir: Path,
    config: EvaluateConfig,
    loaded: ProblemSet,
    problems: list[Problem],
) -> EvaluatedModel:
    """Start the evaluation of a model in `folder`, or continue it; nothing is sampled yet.

    `output_dir`: of all models. `config` names the dataset and split that were `loaded`. Raises UserError when the
    model cannot be read, and when the folder holds an evaluation with other settings.
    """
    layout = layout_of_checkpoint(path, config, folder)
    mode = config.revise_mode
    identity = {
        "model": model_identity(path),
        "dataset_fingerprint": loaded.fingerprint,
        "control_phrases": layout.phrases.as_dict(),
        "prompt": layout.prompt.as_dict(),
    } | {name: getattr(config, name) for name in ("max_samples", "num_samples")}
    # As up to version 0.2, which knew no other modes.
    identity["revise"] = {ORACLE: True, NONE: False}.get(mode, mode)
    if mode == CONFIDENCE:
        identity["revise_share"] = config.revise_share
    identity |= {name: getattr(config, name) for name in ("temperature", "top_p", "max_tokens", "seed")}
    if config.mode == "code":
        identity |= judge_config(config).identity()
    revisions = known({path: model_revision(path), str(config.dataset): loaded.revision})
    resolved = asdict(replace(config, model_path=path, output_dir=str(folder)))
    open_run(folder, identity, resolved | {"recipe": recipe_record(config, "evaluate")}, revisions, [path])
    trained_on = name_trained_problems(path, problems)
    reuse_samples(
        folder,
        output_dir,
        identity,
        revisions,
        phrase_after=lambda r: phrase_after(mode, layout.phrases, r),
        needs_logprob=lambda key: key.response != GREEDY and logs_logprob(config.logprobs_of, key),
    )
    return EvaluatedModel(label, path, folder, layout, trained_on)


def name_trained_problems(model_path: str, problems: list[Problem]) -> dict[str, int]:
    """Phase -> how many of the problems it trained the checkpoint on, by their text; a warning for each phase."""
    counts = {}
    for phase, consumed in consumed_by_checkpoint(model_path).items():
        if used := overlap(problems, consumed):
            counts[phase] = len(used)
            print(
                f"warning: {len(used)} of {len(problems)} problems are also training problems of {phase} of "
                f"{model_path} (the first: {used[0].id}), so this evaluation is not on new problems"
            )
    return counts


def sample_model(
    model: EvaluatedModel, config: EvaluateConfig, problems: list[Problem], grader: Grader
) -> tuple[list[ProblemSamples], int]:
    """Sample and grade what its log does not have yet; returns its samples, and how many are set aside.

    Raises UserError when no response could be graded.
    """
    mode = config.revise_mode
    with_logprobs = config.logprobs_of != "none"
    sampler, max_model_len = sampler_from_config(config, model.path, model.layout, problems, with_logprobs)
    greedy = SamplingConfig(0.0, 1.0, tuple(model.layout.eot_ids))
    with closing(sampler):
        collector_config = CollectorConfig(
            num_responses=config.num_samples,
            num_revisions=1,
            revise=revised_rewards(mode if mode != CONFIDENCE else NONE),
            revise_truncated=True,
            max_tokens=config.max_tokens,
            max_model_len=max_model_len,
            max_in_flight=config.batch_size * sampler.engines,
            seed=config.seed,
            selection=None,
            cue=cue_of(mode),
            greedy=greedy if config.greedy else None,
            log_logprobs=config.logprobs_of,  # pyright: ignore[reportArgumentType]
        )
        collector = _collect(model, problems, sampler, grader, collector_config)
        chosen = None
        if mode == CONFIDENCE:  # the least confident are known once all responses are there
            chosen = least_confident(_asked_for(model.folder, problems, config), config.revise_share)
            revising = replace(collector_config, revise=revised_rewards(mode), only=chosen)
            collector = _collect(model, problems, sampler, grader, revising)
    samples = group_by_problem(_asked_for(model.folder, problems, config, chosen), problems)
    set_aside = sum(_is_asked_for(key, config, chosen) for key in collector.attempts.set_aside_keys)
    if not samples:
        raise UserError(
            f"no response could be graded: all {set_aside} samples are set aside in "
            f"{collector.attempts.set_aside_path}, each with its reason"
        )
    return samples, set_aside


def _collect(
    model: EvaluatedModel, problems: list[Problem], sampler: LazySampler, grader: Grader, config: CollectorConfig
) -> Collector:
    collector = Collector(problems, model.layout, sampler, grader, config, model.folder)
    collector.run()
    collector.close()
    return collector


def _asked_for(
    folder: Path, problems: list[Problem], config: EvaluateConfig, revised: Collection[SampleKey] | None = None
) -> list[EvaluatedSample]:
    """The graded samples that this evaluation is of. `revised`: see `_is_asked_for`."""
    log = JsonlLog(folder / ATTEMPTS)
    samples = [EvaluatedSample.of(record) for record, _ in sound_records(log, problems, [])]
    log.close()
    return [sample for sample in samples if _is_asked_for(sample.key, config, revised)]


def _is_asked_for(key: SampleKey, config: EvaluateConfig, revised: Collection[SampleKey] | None) -> bool:
    """Whether this evaluation is of a sample: another one may have logged more, here or where it was reused from.

    `revised`: the responses whose revisions count; None: all.
    """
    if key.response >= config.num_samples or (key.response == GREEDY and not config.greedy):
        return False
    is_revision = key.revision is not None
    return not is_revision or (config.revise_mode != NONE and (revised is None or key.response_key in revised))
