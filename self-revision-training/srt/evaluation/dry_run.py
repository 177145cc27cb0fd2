"""--dry-run of evaluate.sh: knobs, responses, tokens and GPU hours of each model, without starting or writing."""

from pathlib import Path

from srt.common.console import print_summary
from srt.common.dry_run import ASSUMED_LENGTH, SAMPLING, gpu_hours, print_knobs
from srt.common.models import context_limit, count_parameters, load_model_config
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.records import Problem
from srt.evaluation.config import NONE, EvaluateConfig
from srt.sampling.from_config import MEASURED_PROMPTS


def show_plan(config: EvaluateConfig, folders: dict[str, Path], problems: list[Problem]) -> None:
    """`folders`: model -> where its evaluation is, or would be."""
    print_knobs(config, "evaluate")
    for model, folder in folders.items():
        print_summary(model, estimate(config, model, folder, problems))
        exists = (folder / "run.json").is_file()
        print(f"  output: {folder} ({'it holds an evaluation, which this would continue' if exists else 'new'})")
    print("\ndry run: no engine was started, nothing was written")


def estimate(config: EvaluateConfig, model: str, folder: Path, problems: list[Problem]) -> dict[str, object]:
    """What the evaluation of one model costs, at most and by a rough guess."""
    layout = layout_of_checkpoint(model, config, folder)
    prompts = [len(layout.chat(problem.x)) for problem in problems[:MEASURED_PROMPTS]]
    responses = len(problems) * (config.num_samples + config.greedy)
    revisions = 0 if config.revise_mode == NONE else len(problems) * config.num_samples
    bound = (responses + revisions) * config.max_tokens
    guess = ASSUMED_LENGTH * bound
    return {
        "problems": len(problems),
        "responses": responses,
        "revisions": revisions,
        f"prompt tokens of {len(prompts):,} problems": f"{sum(prompts) / len(prompts):.0f} on average, "
        f"{max(prompts):,} at most",
        "prompts beyond the context length": sum(tokens >= context_limit(model) for tokens in prompts),
        "sampled tokens": f"{bound:,} at most, {guess:,.0f} if responses use {ASSUMED_LENGTH:.0%} of MAX_TOKENS",
        "GPU hours of this guess": gpu_hours(guess, SAMPLING, count_parameters(load_model_config(model))),
    }
