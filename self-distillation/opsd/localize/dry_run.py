"""--dry-run of localize.sh: the knobs, the pairs and how much there is to do; nothing is started or written."""

from typing import TYPE_CHECKING

from srt.common.console import print_summary
from srt.common.dry_run import print_knobs
from srt.common.models import count_parameters, load_model_config

if TYPE_CHECKING:
    from opsd.localize.run import Localization

PASSES = {True: 4, False: 1}  # of the teacher, by COMPARE_PHRASES


def show_plan(localization: "Localization") -> None:
    config = localization.config
    print_knobs(config, "localize")
    responses: dict[str, object] = {}
    for pair in localization.pairs:
        if localization.run:
            graded = localization.run.responses(config, localization.layouts[pair.name])
            tokens = sum(len(item.rollout.y) for item in graded)
            responses[pair.student] = f"{len(graded)} of {localization.run.folder}, {tokens:,} tokens"
        else:
            count = len(localization.chosen_problems) * config.num_samples
            most = count * config.max_tokens
            responses[pair.student] = f"{count} to sample on {localization.dataset}, at most {most:,} tokens"
    print_summary("Responses of", responses)
    passes = PASSES[config.compare_phrases]
    rows: dict[str, object] = {
        pair.name: f"student {_sized(pair.student)}, teacher {_sized(pair.teacher)}; teacher passes: {passes}"
        for pair in localization.pairs
    }
    print_summary("Pairs", rows)
    begun = [pair.name for pair in localization.pairs if (localization.folder(pair) / "run.json").is_file()]
    print(f"\noutput: {localization.output_dir} ({'would continue ' + ', '.join(begun) if begun else 'new'})")
    print("dry run: no model was opened, nothing was written")


def _sized(model: str) -> str:
    return f"{model} ({count_parameters(load_model_config(model)) / 1e9:.3g} B parameters)"
