"""Phase 1, data collection (arXiv:2604.12002, section 2.1): knobs -> D_revision."""

import time
from contextlib import closing
from dataclasses import asdict, replace

from srt.collect.collector import CollectionSettings, Collector
from srt.collect.config import SrtDataKnobs
from srt.collect.dry_run import show_plan
from srt.common.console import print_summary
from srt.common.errors import UserError
from srt.common.files import write_json
from srt.common.models import eot_ids, load_tokenizer
from srt.config import load_knobs
from srt.contract.layout import Layout, PromptSettings
from srt.contract.paths import collection_dir, data_prefix, dataset_or_default
from srt.contract.phrases import load_phrases
from srt.contract.provenance import close_run, model_fingerprint, open_run, tokenizer_fingerprint
from srt.problems import ProblemSet, load_problems, set_aside_bad_records
from srt.sampling.from_config import sampler_from_knobs
from srt.verifiers.factory import check_verifier, code_settings, open_grader

DRY_RUN = "--dry-run"


def selected_problems(knobs: SrtDataKnobs) -> ProblemSet:
    """The problems that START_INDEX, END_INDEX and MAX_SAMPLES leave. Raises UserError when none is left."""
    dataset, subset = dataset_or_default(knobs.mode, knobs.dataset, knobs.dataset_subset)
    loaded = load_problems(dataset, knobs.mode, subset, knobs.dataset_split)
    problems = loaded.problems[knobs.start_index : knobs.end_index][: knobs.max_samples]
    if not problems:
        raise UserError(
            f"{dataset}: no problem is left between START_INDEX={knobs.start_index} and "
            f"END_INDEX={knobs.end_index}; it has {len(loaded.problems)}"
        )
    return replace(loaded, problems=problems)


def collect(argv: list[str]) -> None:
    """Write d_revision.json: TARGET_REVISION_SAMPLES verified tuples, or what the problems give.

    With --dry-run, only print what would be done.
    """
    knobs = load_knobs(SrtDataKnobs, "srt_data", [argument for argument in argv if argument != DRY_RUN])
    if DRY_RUN not in argv:
        check_verifier(knobs)
    started = time.monotonic()
    phrases = load_phrases(knobs.control_phrases)
    prompt = PromptSettings.from_knobs(
        knobs.mode, knobs.system_prompt, knobs.prompt_suffix, knobs.chat_template_kwargs
    )
    loaded = selected_problems(knobs)
    tokenizer = load_tokenizer(knobs.model_path)
    layout = Layout(tokenizer, phrases, prompt, eot_ids(knobs.model_path, tokenizer))
    prefix = data_prefix(knobs.data_prefix, knobs.mode, knobs.model_path)
    output_dir = collection_dir(knobs.output_dir, prefix)
    if DRY_RUN in argv:
        dataset, subset = dataset_or_default(knobs.mode, knobs.dataset, knobs.dataset_subset)
        resolved = {"dataset": dataset, "dataset_subset": subset, "prompt_suffix": prompt.prompt_suffix}
        places = {"data_prefix": prefix, "output_dir": str(output_dir)}
        show_plan(replace(knobs, **resolved, **places), loaded, layout, output_dir)
        return

    # TARGET_REVISION_SAMPLES and CLEAN are left out: they choose from the log, which stays the same.
    identity = {
        "mode": knobs.mode,
        "model": knobs.model_path,
        "model_fingerprint": model_fingerprint(knobs.model_path),
        "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer),
        "dataset_fingerprint": loaded.fingerprint,
        "problems": [knobs.start_index, knobs.end_index, knobs.max_samples],
        "control_phrases": phrases.as_dict(),
        "prompt": prompt.as_dict(),
        "num_responses": knobs.num_responses,
        "num_revisions": knobs.num_revisions,
        "revise_correct": knobs.revise_correct,
        "revise_truncated": knobs.revise_truncated,
        "temperature": knobs.temperature,
        "top_p": knobs.top_p,
        "max_tokens": knobs.max_tokens,
        "seed": knobs.seed,
    }
    if knobs.mode == "code":
        identity |= code_settings(knobs).identity()
    open_run(output_dir, identity, asdict(knobs))
    set_aside_bad_records(loaded, output_dir)
    print(f"{len(loaded.problems)} problems, {len(loaded.bad)} unreadable records; output: {output_dir}")

    sampler, max_model_len = sampler_from_knobs(knobs, layout, loaded.problems)
    with closing(sampler), open_grader(knobs) as grader:
        settings = CollectionSettings(
            num_responses=knobs.num_responses,
            num_revisions=knobs.num_revisions,
            revise=frozenset({0, 1} if knobs.revise_correct else {0}),
            revise_truncated=knobs.revise_truncated,
            max_tokens=knobs.max_tokens,
            max_model_len=max_model_len,
            window=knobs.batch_size * sampler.engines,
            seed=knobs.seed,
            target=knobs.target_revision_samples,
            clean=knobs.clean,
        )
        collector = Collector(loaded.problems, layout, sampler, grader, settings, output_dir)
        collector.run()
    collector.close()
    tuples = collector.tuples()
    path = output_dir / "d_revision.json"
    write_json(path, tuples)
    summary = collector.counts.summary() | {
        "unreadable_records": len(loaded.bad),
        "repeated_records": loaded.repeated,
        "seconds": round(time.monotonic() - started, 1),
    }
    close_run(output_dir, summary | {"clean": knobs.clean, "tuples": len(tuples)})
    print_summary("Collection", summary | {"tuples written": len(tuples), "file": path})
    if len(tuples) < knobs.target_revision_samples:
        print(
            f"note: {len(tuples)} tuples instead of TARGET_REVISION_SAMPLES={knobs.target_revision_samples}: "
            "all problems are used up; more problems, NUM_RESPONSES or NUM_REVISIONS give more"
        )
