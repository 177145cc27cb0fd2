"""Configuration -> models, one after another -> evaluation.json and its tables.

Each model is a collection without a target that revises right and wrong responses alike, so it samples, grades and
resumes with the same code.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from srt.common.dry_run import DRY_RUN
from srt.common.errors import UserError
from srt.common.files import atomic_write, lock_folder, write_json
from srt.common.models import check_gpu
from srt.common.remote_code import allow_remote_code
from srt.config import load_config
from srt.contract.metrics import ENTROPY, JUDGED_BY_EXAMPLES_ONLY, SET_ASIDE, TRAINED_ON
from srt.contract.model_identity import folder_name
from srt.contract.paths import PHASE1, evaluation_or_default
from srt.contract.provenance import close_run
from srt.contract.records import SampleKey
from srt.evaluation.config import EvaluateConfig, label_models, split_models
from srt.evaluation.dry_run import show_plan
from srt.evaluation.metrics import differences, entropy_note, evaluation_metrics
from srt.evaluation.one_model import EvaluatedModel, open_model, sample_model
from srt.evaluation.plot import PLOT, write_plot
from srt.evaluation.render import csv_text, latex, markdown, plain
from srt.evaluation.samples import ProblemSamples
from srt.problems import ProblemSet, load_problems, set_aside_bad_records
from srt.problems.named import named_sets
from srt.recipe import print_recipe
from srt.verifiers.factory import check_verifier, open_grader

Json = dict[str, Any]
SETTINGS = (
    *("mode", "dataset", "dataset_subset", "dataset_split", "max_samples", "min_tests", "num_samples"),
    *("control_phrases", "system_prompt", "prompt_suffix", "chat_template_kwargs"),
    *("temperature", "top_p", "max_tokens", "seed"),
)


def evaluate(argv: list[str]) -> None:
    """Write evaluation.json (the metrics), the same as tables, and attempts.jsonl (every response and revision).

    With several models, each has a folder below OUTPUT_DIR, with what it would have if it were evaluated alone.
    With --dry-run, only print what would be done.
    """
    dry_run = DRY_RUN in argv
    named, argv = split_models([argument for argument in argv if argument != DRY_RUN])
    config = load_config(EvaluateConfig, "evaluate", argv)
    models = label_models(named or ([config.model_path] if config.model_path else []))
    if not models:
        raise UserError("MODEL_PATH is not set: it names the checkpoint to evaluate; or name models as arguments")
    config.check()
    allow_remote_code(config.trust_remote_code)
    if not dry_run:
        check_gpu()
        check_verifier(config)
    started = time.monotonic()
    print_recipe(config, "evaluate")
    dataset, split = evaluation_or_default(config.mode, config.dataset, config.dataset_split)
    if named_sets(dataset, config.mode) and (config.dataset_split or config.dataset_subset):
        raise UserError(
            f"DATASET={dataset} has its own split and subset: leave DATASET_SPLIT and DATASET_SUBSET unset"
        )
    config = replace(config, dataset=dataset, dataset_split=split)
    loaded = load_problems(dataset, config.mode, config.dataset_subset, split, config.min_tests)
    problems = loaded.problems[: config.max_samples]
    output_dir = _output_dir(config, models)
    folders = {path: output_dir / label if len(models) > 1 else output_dir for label, path in models.items()}
    if dry_run:
        show_plan(config, folders, problems)
        return
    if len(models) > 1:
        lock_folder(output_dir)
    opened = [
        open_model(label, path, folders[path], output_dir, config, loaded, problems)
        for label, path in models.items()
    ]
    set_aside_bad_records(loaded, output_dir)

    results, samples = [], []
    with open_grader(config) as grader:
        for model in opened:
            print(f"{model.path} on {len(problems)} problems of {dataset}; output: {model.folder}")
            of_model, set_aside = sample_model(model, config, problems, grader)
            result = _result(model, of_model, set_aside, config, loaded)
            write_json(model.folder / "evaluation.json", result)
            close_run(model.folder, result)
            results.append(result)
            samples.append(of_model)
    comparison = compare(opened, results, samples, config)
    if len(models) > 1:
        write_json(output_dir / "evaluation.json", comparison)
    _write_tables(output_dir, comparison)
    write_plot(output_dir, comparison)
    print(f"\nEvaluation\n{plain(comparison)}\n\nseconds: {time.monotonic() - started:.1f}")
    print(f"results: {output_dir / 'evaluation.json'}, beside it the tables (.md, .csv, .tex) and {PLOT}.svg")


def _output_dir(config: EvaluateConfig, models: dict[str, str]) -> Path:
    """The folder of one model, or the folder of several.

    Raises UserError when the evaluation of a single model is where several would go, or the other way round.
    """
    if len(models) == 1:
        (path,) = models.values()
        output_dir = Path(config.output_dir or PHASE1 / "outputs" / f"eval_{folder_name(path, _settings(config))}")
        of_several = (output_dir / "evaluation.json").exists() and any(output_dir.glob("*/run.json"))
        if of_several and not (output_dir / "run.json").exists():
            raise UserError(
                f"{output_dir} holds the evaluation of several models; choose another OUTPUT_DIR for a single one "
                "(what is sampled there is reused)"
            )
        return output_dir
    output_dir = Path(config.output_dir or PHASE1 / "outputs" / "evaluation")
    if (output_dir / "run.json").exists():
        raise UserError(
            f"{output_dir} holds the evaluation of a single model; choose another OUTPUT_DIR for several (what is "
            "sampled there is reused)"
        )
    return output_dir


def _settings(config: EvaluateConfig) -> Json:
    """What decides on the samples, for the name of the default folder."""
    return {name: getattr(config, name) for name in SETTINGS} | {"revise": config.revise_mode}


def _result(
    model: EvaluatedModel,
    samples: list[ProblemSamples],
    set_aside: int,
    config: EvaluateConfig,
    loaded: ProblemSet,
) -> Json:
    metrics = evaluation_metrics(samples, config.num_samples, config.mode, config.seed)
    result = {"model": model.path, "dataset": config.dataset} | metrics
    if ENTROPY in metrics["metrics"]:
        result["entropy_estimate"] = entropy_note(config.temperature, config.top_p)
    result[SET_ASIDE] = set_aside
    if model.trained_on:
        result[TRAINED_ON] = model.trained_on
    if config.mode == "code":
        keys = [SampleKey(p.index, r.key.response) for p in samples for r in p.responses]
        result[JUDGED_BY_EXAMPLES_ONLY] = loaded.num_examples_only(keys)
    return result


def compare(
    models: list[EvaluatedModel], results: list[Json], samples: list[list[ProblemSamples]], config: EvaluateConfig
) -> Json:
    """What evaluation.json says of several models; the differences are to the first one."""
    first = models[0].label
    return {
        "dataset": config.dataset,
        "k": config.num_samples,
        "models": [{"label": model.label} | result for model, result in zip(models, results, strict=True)],
        "differences": [
            {"model": model.label, "to": first}
            | differences(of_model, samples[0], config.num_samples, config.mode, config.seed)
            for model, of_model in zip(models[1:], samples[1:], strict=True)
        ],
    }


def _write_tables(output_dir: Path, comparison: Json) -> None:
    for suffix, render in ((".md", markdown), (".csv", csv_text), (".tex", latex)):
        with atomic_write(output_dir / f"evaluation{suffix}") as temporary:
            temporary.write_text(render(comparison), encoding="utf-8", errors="backslashreplace")
