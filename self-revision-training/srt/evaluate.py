"""Evaluation: avg@k, pass@k, response length, and accuracy of revisions.

It is a collection without a target that revises right and wrong responses alike, so it samples, grades and
resumes with the same code.
"""

import time
from collections import defaultdict
from collections.abc import Collection
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from srt.collect.attempts import GradedSample
from srt.collect.collector import Collector, CollectorConfig
from srt.collect.consumed import consumed_by_checkpoint, overlap
from srt.common.console import print_summary
from srt.common.errors import UserError
from srt.common.files import write_json
from srt.common.models import check_gpu
from srt.common.remote_code import allow_remote_code
from srt.config import load_config, option, seed_option
from srt.config_groups import (
    GradingConfig,
    ParallelSamplerConfig,
    ProblemFilterConfig,
    PromptConfig,
    RecipeConfig,
    RemoteCodeConfig,
)
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.metrics import (
    AVG_AT_K,
    JUDGED_BY_EXAMPLES_ONLY,
    REVISE,
    REVISIONS,
    REVISIONS_TRUNCATED,
    SET_ASIDE,
    TRAINED_ON,
    TRUNCATED,
    by_reward,
)
from srt.contract.model_identity import model_identity
from srt.contract.paths import PHASE1, evaluation_or_default, model_name
from srt.contract.provenance import close_run, known, model_revision, open_run
from srt.contract.records import Problem
from srt.problems import load_problems, set_aside_bad_records
from srt.recipe import print_recipe, recipe_record
from srt.sampling.from_config import sampler_from_config
from srt.verifiers.factory import check_verifier, judge_config, open_grader

BOOTSTRAP_DRAWS = 2000


@dataclass(frozen=True)
class EvaluateConfig(
    RecipeConfig, PromptConfig, ParallelSamplerConfig, GradingConfig, ProblemFilterConfig, RemoteCodeConfig
):
    """See configs/evaluate.yaml for the meaning and default of each option."""

    model_path: str | None = option(path=True)
    dataset: str | None = option(path=True)
    dataset_subset: str | None = option()
    dataset_split: str | None = option()
    max_samples: int | None = option(ge=1)
    num_samples: int = option(ge=1)
    revise: bool = option()
    seed: int = seed_option()
    output_dir: str | None = option(path=True)


def evaluate(argv: list[str]) -> None:
    """Write evaluation.json (the metrics) beside attempts.jsonl (every response and revision)."""
    config = load_config(EvaluateConfig, "evaluate", argv)
    if not config.model_path:
        raise UserError("MODEL_PATH is not set: it names the checkpoint to evaluate")
    allow_remote_code(config.trust_remote_code)
    check_gpu()
    check_verifier(config)
    started = time.monotonic()
    print_recipe(config, "evaluate")
    dataset, split = evaluation_or_default(config.mode, config.dataset, config.dataset_split)
    loaded = load_problems(dataset, config.mode, config.dataset_subset, split, config.min_tests)
    problems = loaded.problems[: config.max_samples]
    output_dir = Path(config.output_dir or PHASE1 / "outputs" / f"eval_{model_name(config.model_path)}")
    layout = layout_of_checkpoint(config.model_path, config, output_dir)
    identity = {
        "model": model_identity(config.model_path),
        "dataset_fingerprint": loaded.fingerprint,
        "control_phrases": layout.phrases.as_dict(),
        "prompt": layout.prompt.as_dict(),
    } | {
        name: getattr(config, name)
        for name in ("max_samples", "num_samples", "revise", "temperature", "top_p", "max_tokens", "seed")
    }
    if config.mode == "code":
        identity |= judge_config(config).identity()
    revisions = known({config.model_path: model_revision(config.model_path), dataset: loaded.revision})
    resolved = asdict(replace(config, dataset=dataset, dataset_split=split))
    open_run(output_dir, identity, resolved | {"recipe": recipe_record(config, "evaluate")}, revisions)
    trained_on = name_trained_problems(config.model_path, problems)
    set_aside_bad_records(loaded, output_dir)
    print(f"{config.model_path} on {len(problems)} problems of {dataset}; output: {output_dir}")

    sampler, max_model_len = sampler_from_config(config, config.model_path, layout, problems)
    with closing(sampler), open_grader(config) as grader:
        collector_config = CollectorConfig(
            num_responses=config.num_samples,
            num_revisions=1,
            revise=frozenset({0, 1} if config.revise else ()),
            revise_truncated=True,
            max_tokens=config.max_tokens,
            max_model_len=max_model_len,
            max_in_flight=config.batch_size * sampler.engines,
            seed=config.seed,
            selection=None,
        )
        collector = Collector(problems, layout, sampler, grader, collector_config, output_dir)
        collector.run()
    collector.close()
    attempts = collector.attempts
    set_aside = collector.stats.set_aside.total()
    if not attempts.responses:
        raise UserError(
            f"no response could be graded: all {set_aside} samples are set aside in "
            f"{attempts.set_aside_path}, each with its reason"
        )
    metrics = evaluation_metrics(
        attempts.responses.values(), attempts.revisions.values(), config.num_samples, config.seed
    )
    result = {"model": config.model_path, "dataset": dataset} | metrics
    result[SET_ASIDE] = set_aside
    if trained_on:
        result[TRAINED_ON] = trained_on
    if config.mode == "code":
        result[JUDGED_BY_EXAMPLES_ONLY] = loaded.num_examples_only(attempts.responses)
    write_json(output_dir / "evaluation.json", result)
    close_run(output_dir, result)
    print_summary("Evaluation", result | {"seconds": round(time.monotonic() - started, 1)})


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


def evaluation_metrics(
    responses: Collection[GradedSample], revisions: Collection[GradedSample], k: int, seed: int
) -> dict[str, Any]:
    """avg@k and pass@k (0 to 1), tokens per response, and accuracy of revisions by the reward of the response.

    The interval covers 95% of bootstrap samples over problems, since responses to one problem are not independent.
    """
    rewards: dict[int, list[int]] = defaultdict(list)
    for response in responses:
        rewards[response.key.problem].append(response.r)
    averages = np.array([np.mean(r) for r in rewards.values()])
    low, high = bootstrap_interval(averages, seed)
    reward_of = {response.key: response.r for response in responses}
    revised: dict[int, list[GradedSample]] = {0: [], 1: []}  # reward of the response -> its revisions
    for revision in revisions:
        revised[reward_of[revision.key.response_key]].append(revision)

    def share(r: int, name: str) -> float | None:
        return float(np.mean([getattr(revision, name) for revision in revised[r]])) if revised[r] else None

    return {
        "problems": len(rewards),
        "k": k,
        AVG_AT_K: float(averages.mean()),
        "avg_at_k_interval": [low, high],
        "pass_at_k": float(np.mean([max(r) for r in rewards.values()])),
        "mean_response_tokens": float(np.mean([response.tokens for response in responses])),
        TRUNCATED: float(np.mean([response.truncated for response in responses])),
        **{by_reward(REVISE, r): share(r, "correct") for r in (0, 1)},
        **{by_reward(REVISIONS, r): len(revised[r]) for r in (0, 1)},
        **{by_reward(REVISIONS_TRUNCATED, r): share(r, "truncated") for r in (0, 1)},
    }


def bootstrap_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """2.5% and 97.5% quantiles of the mean of `values` resampled with replacement."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(values), size=(BOOTSTRAP_DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
