"""Phase 1, data collection (arXiv:2604.12002, section 2.1): problems -> D_revision."""

import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

from srt.collect.collector import Collector, CollectorConfig
from srt.collect.config import CHOOSES_TUPLES, CollectConfig, check
from srt.collect.consumed import SRT_PROBLEMS, write_consumed
from srt.collect.dry_run import show_plan
from srt.collect.selection import Selection
from srt.collect.split import D_REVISION, FINGERPRINT, check_stage_files, forget_fingerprint, is_edited
from srt.common.console import print_summary
from srt.common.disk import disk_bytes, shown_bytes
from srt.common.distillable import warn_before_phase1
from srt.common.dry_run import DRY_RUN
from srt.common.errors import UserError
from srt.common.files import read_json, write_json
from srt.common.machine import stated_machine, this_machine
from srt.common.models import check_gpu
from srt.common.remote_code import allow_remote_code
from srt.config import load_config
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.metrics import JUDGED_BY_EXAMPLES_ONLY
from srt.contract.model_identity import model_identity
from srt.contract.paths import collection_dir, data_prefix, dataset_or_default
from srt.contract.provenance import (
    close_run,
    fingerprint,
    known,
    model_revision,
    open_run,
    read_run,
    started_identity,
    tokenizer_fingerprint,
)
from srt.problems import ProblemSet, load_problems, set_aside_bad_records
from srt.recipe import print_recipe, recipe_record
from srt.sampling.from_config import sampler_from_config
from srt.verifiers.factory import check_verifier, judge_config, open_grader


def selected_problems(config: CollectConfig) -> ProblemSet:
    """The problems that START_INDEX, END_INDEX and MAX_SAMPLES select. Raises UserError if there are none."""
    dataset, subset = dataset_or_default(config.mode, config.dataset, config.dataset_subset)
    loaded = load_problems(dataset, config.mode, subset, config.dataset_split, config.min_tests)
    problems = loaded.problems[config.start_index : config.end_index][: config.max_samples]
    if not problems:
        raise UserError(
            f"{dataset}: no problem is left between START_INDEX={config.start_index} and "
            f"END_INDEX={config.end_index}; it has {len(loaded.problems)}"
        )
    return replace(loaded, problems=problems)


def collect(argv: list[str]) -> None:
    """Write d_revision.json: TARGET_REVISION_SAMPLES verified tuples, or as many as the problems yield.

    With --dry-run, only print what would be done.
    """
    config = load_config(CollectConfig, "srt_data", [argument for argument in argv if argument != DRY_RUN])
    check(config)
    allow_remote_code(config.trust_remote_code)
    stated = stated_machine(config.plan_for, DRY_RUN in argv)
    if DRY_RUN not in argv:
        check_gpu()
        check_verifier(config)
    warn_before_phase1(config.model_path)
    started = time.monotonic()
    print_recipe(config, "srt_data")
    prefix = data_prefix(config.data_prefix, config.mode, config.model_path)
    output_dir = collection_dir(config.output_dir, prefix)
    layout = layout_of_checkpoint(config.model_path, config, output_dir)
    loaded = selected_problems(config)
    dataset, subset = dataset_or_default(config.mode, config.dataset, config.dataset_subset)
    if DRY_RUN in argv:
        resolved = {
            "dataset": dataset,
            "dataset_subset": subset,
            "control_phrases": config.control_phrases or layout.phrases.name,
            "prompt_suffix": layout.prompt.prompt_suffix,
            "data_prefix": prefix,
            "output_dir": str(output_dir),
        }
        show_plan(replace(config, **resolved), loaded, layout, output_dir, stated or this_machine())
        return

    # Without TARGET_REVISION_SAMPLES, RIGHT_SHARE and CLEAN, which only select from the log.
    identity = {
        "mode": config.mode,
        "model": model_identity(config.model_path),
        "tokenizer_fingerprint": tokenizer_fingerprint(layout.tokenizer),
        "dataset_fingerprint": loaded.fingerprint,
        "problems": [config.start_index, config.end_index, config.max_samples],
        "control_phrases": layout.phrases.as_dict(),
        "prompt": layout.prompt.as_dict(),
        "num_responses": config.num_responses,
        "num_revisions": config.num_revisions,
        "revise_correct": config.revise_correct,
        "revise_truncated": config.revise_truncated,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_tokens": config.max_tokens,
        "seed": config.seed,
    }
    if config.mode == "code":
        identity |= judge_config(config).identity()
    revisions = known({config.model_path: model_revision(config.model_path), dataset: loaded.revision})
    config_record = asdict(config) | {
        "recipe": recipe_record(config, "srt_data"),
        "prompt_probe": layout.prompt_probe(),
    }
    if started_identity(output_dir) in (None, identity):  # else open_run says what differs
        check_stage_files(config.train_data_dir, prefix, identity)
    open_run(output_dir, identity, config_record, revisions, [config.model_path])
    set_aside_bad_records(loaded, output_dir)
    print(f"{len(loaded.problems)} problems, {len(loaded.bad)} unreadable records; output: {output_dir}")

    sampler, max_model_len = sampler_from_config(config, config.model_path, layout, loaded.problems)
    with closing(sampler), open_grader(config) as grader:
        collector_config = CollectorConfig(
            num_responses=config.num_responses,
            num_revisions=config.num_revisions,
            revise=frozenset({0, 1} if config.revise_correct else {0}),
            revise_truncated=config.revise_truncated,
            max_tokens=config.max_tokens,
            max_model_len=max_model_len,
            max_in_flight=config.batch_size * sampler.engines,
            seed=config.seed,
            selection=Selection(config.target_revision_samples, config.right_share),
            clean=config.clean,
        )
        collector = Collector(loaded.problems, layout, sampler, grader, collector_config, output_dir)
        collector.run()
    collector.close()
    tuples = collector.tuples()
    path = output_dir / D_REVISION
    written = _write_tuples(path, tuples)
    consumed = collector.consumed()
    write_consumed(output_dir / SRT_PROBLEMS, consumed)
    summary = collector.stats.summary() | {
        "unreadable_records": len(loaded.bad),
        "repeated_records": loaded.repeated,
    }
    if config.mode == "code":
        summary |= {
            "too_few_tests": loaded.too_few_tests,
            JUDGED_BY_EXAMPLES_ONLY: loaded.num_examples_only(collector.attempts.responses),
        }
    summary["seconds"] = round(time.monotonic() - started, 1)
    summary["sampler_start_seconds"] = round(sampler.start_seconds, 1)
    right = sum(tuple_["y_init_correct"] for tuple_ in tuples)
    counts = {"tuples": len(tuples), "tuples_after_right": right, "tuples_after_wrong": len(tuples) - right}
    chosen = {name: getattr(config, name) for name in CHOOSES_TUPLES}
    close_run(output_dir, summary | counts | chosen | {"problems": len(consumed), FINGERPRINT: written})
    account = collector.stats.account(len(tuples), right, config.target_revision_samples)
    rest = {
        "changes by cleaning": {kind: n for kind, n in collector.stats.cleaned.items() if kind != "duplicate"}
        or "none",
        "problems used": f"{len(consumed):,} of {len(loaded.problems):,}",
        "unreadable records": len(loaded.bad),
        "repeated records": loaded.repeated,
        "tokens": summary["tokens"],
        "seconds of this call": f"{summary['seconds']:,}, {summary['sampler_start_seconds']:,} of them for the "
        "sampler's start",
        "file": path,
        "disk used": shown_bytes(disk_bytes(output_dir)),
    }
    print_summary("Collection", account | rest)
    if len(tuples) < config.target_revision_samples:
        share = "" if config.right_share is None else f" with RIGHT_SHARE={config.right_share:g}"
        print(
            f"note: {len(tuples)} tuples instead of TARGET_REVISION_SAMPLES={config.target_revision_samples}"
            f"{share}: all problems were used; add problems, or raise NUM_RESPONSES or NUM_REVISIONS"
        )
    if collector.stats.responses and not collector.stats.right:
        print(f"warning: {collector.stats.nothing_right()}")


def _write_tuples(path: Path, tuples: list[dict]) -> str:
    """Returns the fingerprint of the file. Raises UserError where it was edited by hand and would be lost."""
    if is_edited(path, read_run(path.parent) or {}) and read_json(path) != tuples:
        raise UserError(
            f"{path} was edited since it was written, and writing it again would undo that; prepare_data.py "
            "splits it as it is, or delete it to have it written again"
        )
    forget_fingerprint(path.parent)  # until close_run: a run that is killed in between leaves no edited file
    write_json(path, tuples)
    return fingerprint(path.read_bytes())
