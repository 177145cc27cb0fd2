"""Evaluation: avg@k, pass@k, response length, and accuracy when asked to revise.

It is a collection without a target that revises after both rewards, so it samples, grades and resumes with
the same code.
"""

import time
from collections import defaultdict
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srt.collect.collector import Collector, CollectorConfig
from srt.common.console import print_summary
from srt.common.errors import UserError
from srt.common.files import write_json
from srt.config import load_config, option
from srt.config_groups import GradingConfig, ParallelSamplerConfig, ProblemFilterConfig, PromptConfig
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.paths import PHASE1, model_name
from srt.contract.provenance import close_run, model_fingerprint, open_run
from srt.contract.records import Response, Revision
from srt.problems import load_problems, set_aside_bad_records
from srt.sampling.from_config import sampler_from_config
from srt.verifiers.factory import check_verifier, judge_config, open_grader

BOOTSTRAP_DRAWS = 2000


@dataclass(frozen=True)
class EvaluateConfig(PromptConfig, ParallelSamplerConfig, GradingConfig, ProblemFilterConfig):
    """The knobs of configs/evaluate.yaml, where their meanings and defaults stand."""

    dataset: str = option()
    dataset_subset: str | None = option()
    dataset_split: str = option()
    max_samples: int | None = option(ge=1)
    num_samples: int = option(ge=1)
    revise: bool = option()
    seed: int = option()
    output_dir: str | None = option()


def evaluate(argv: list[str]) -> None:
    """Write evaluation.json (the figures) beside attempts.jsonl (every response and revision)."""
    config = load_config(EvaluateConfig, "evaluate", argv)
    if config.model_path is None:
        raise UserError("MODEL_PATH is not set: it names the checkpoint to evaluate")
    check_verifier(config)
    started = time.monotonic()
    loaded = load_problems(
        config.dataset, config.mode, config.dataset_subset, config.dataset_split, config.min_tests
    )
    problems = loaded.problems[: config.max_samples]
    layout = layout_of_checkpoint(config.model_path, config)
    output_dir = Path(config.output_dir or PHASE1 / "outputs" / f"eval_{model_name(config.model_path)}")
    identity = {
        "model": config.model_path,
        "model_fingerprint": model_fingerprint(config.model_path),
        "dataset_fingerprint": loaded.fingerprint,
        "control_phrases": layout.phrases.as_dict(),
        "prompt": layout.prompt.as_dict(),
    } | {
        name: getattr(config, name)
        for name in ("max_samples", "num_samples", "revise", "temperature", "top_p", "max_tokens", "seed")
    }
    if config.mode == "code":
        identity |= judge_config(config).identity()
    open_run(output_dir, identity, asdict(config))
    set_aside_bad_records(loaded, output_dir)
    print(f"{config.model_path} on {len(problems)} problems of {config.dataset}; output: {output_dir}")

    sampler, max_model_len = sampler_from_config(config, layout, problems)
    with closing(sampler), open_grader(config) as grader:
        settings = CollectorConfig(
            num_responses=config.num_samples,
            num_revisions=1,
            revise=frozenset({0, 1} if config.revise else ()),
            revise_truncated=True,
            max_tokens=config.max_tokens,
            max_model_len=max_model_len,
            window=config.batch_size * sampler.engines,
            seed=config.seed,
            target=None,
        )
        collector = Collector(problems, layout, sampler, grader, settings, output_dir)
        collector.run()
    collector.close()
    if not collector.responses:
        raise UserError(
            f"no response could be graded: all {collector.counts.set_aside.total()} samples are set aside in "
            f"{collector.aside_log.path}, each with its reason"
        )
    figures = evaluation_figures(
        list(collector.responses.values()), list(collector.revisions.values()), config.num_samples, config.seed
    )
    result = {"model": config.model_path, "dataset": config.dataset} | figures
    result["set_aside"] = collector.counts.set_aside.total()
    result["responses_judged_by_examples_only"] = sum(
        response.id in loaded.examples_only for response in collector.responses.values()
    )
    write_json(output_dir / "evaluation.json", result)
    close_run(output_dir, result)
    print_summary("Evaluation", result | {"seconds": round(time.monotonic() - started, 1)})


def evaluation_figures(responses: list[Response], revisions: list[Revision], k: int, seed: int) -> dict[str, Any]:
    """avg@k and pass@k (0 to 1), tokens per response, revision accuracy by the reward of the response.

    The interval holds 95% of bootstrap draws over problems: responses to one problem are not independent.
    """
    rewards: dict[int, list[int]] = defaultdict(list)
    for response in responses:
        rewards[response.problem_idx].append(response.r)
    averages = np.array([np.mean(r) for r in rewards.values()])
    low, high = bootstrap_interval(averages, seed)
    outcome_by_key = {response.key[:2]: response.r for response in responses}
    revised: dict[int, list[bool]] = {0: [], 1: []}
    for revision in revisions:
        revised[outcome_by_key[revision.key[:2]]].append(revision.y_revised_correct)
    return {
        "problems": len(rewards),
        "k": k,
        "avg_at_k": float(averages.mean()),
        "avg_at_k_interval": [low, high],
        "pass_at_k": float(np.mean([max(r) for r in rewards.values()])),
        "mean_response_tokens": float(np.mean([response.y_init_tokens for response in responses])),
        "truncated": float(np.mean([response.y_init_finish_reason == "length" for response in responses])),
        "revise_r0": float(np.mean(revised[0])) if revised[0] else None,
        "revise_r1": float(np.mean(revised[1])) if revised[1] else None,
        "revisions_r0": len(revised[0]),
        "revisions_r1": len(revised[1]),
    }


def bootstrap_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """2.5% and 97.5% quantiles of the mean of `values`, drawn with replacement."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(values), size=(BOOTSTRAP_DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
