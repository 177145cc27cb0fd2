"""What a collection would do: its knobs, its prompts, how many tokens it may take. Starts and writes nothing."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from srt.common.console import print_summary
from srt.common.models import context_limit
from srt.config import CONFIGS, KnobLine, read_knob_table
from srt.contract.layout import Layout
from srt.problems import ProblemSet

PROMPTS = 2
MEASURED = 1000  # problems whose prompts are counted
# Of the estimate, until a run of one's own has told better.
ASSUMED_LENGTH = 0.25  # of MAX_TOKENS
ASSUMED_YIELD = 0.1  # kept tuples per revision: most revisions of a wrong y_init stay wrong


def show_plan(config: Any, loaded: ProblemSet, layout: Layout, output_dir: Path) -> None:
    """`config`: CollectConfig, with what follows from unset ones filled in."""
    _show_knobs(config)
    for problem in loaded.problems[:PROMPTS]:
        ids = layout.chat(problem.x)
        gold = f"{len(problem.tests)} tests" if problem.mode == "code" else f"gold answer {problem.answer!r}"
        print(f"\nproblem {problem.id} ({gold}): {len(ids)} tokens of prompt")
        print(_visible(ids, layout))
    chat = layout.chat(loaded.problems[0].x)
    y_init = layout.tokenizer.encode("<y_init: the first response>", add_special_tokens=False)
    for r, when in ((0, "wrong"), (1, "right")):
        used = "" if r == 0 or config.revise_correct else ", not used with REVISE_CORRECT=0"
        print(f"\nrevision prompt after a {when} y_init (r = {r}{used})")
        print(_visible(layout.revision_prompt(chat, y_init, r), layout))
    ends = ", ".join(f"{layout.tokenizer.convert_ids_to_tokens(eot)} ({eot})" for eot in layout.eot_ids)
    print(f"\na response ends with: {ends}")
    print_summary("Estimate", estimate(config, loaded, layout))
    exists = (output_dir / "run.json").is_file()
    print(f"\noutput: {output_dir} ({'a run is there: this would continue it' if exists else 'new'})")
    print("dry run: no engine was started, nothing was written")


def estimate(config: Any, loaded: ProblemSet, layout: Layout) -> dict[str, object]:
    """Tokens to sample: at most, and under plain assumptions about lengths and yield."""
    prompts = [len(layout.chat(problem.x)) for problem in loaded.problems[:MEASURED]]
    limit = context_limit(config.model_path)
    most = config.num_responses * (1 + config.num_revisions) * config.max_tokens  # of one problem
    per_response = 1 + config.num_revisions  # samples
    per_problem = config.num_responses * per_response * ASSUMED_LENGTH * config.max_tokens
    tuples_per_problem = config.num_responses * config.num_revisions * ASSUMED_YIELD
    needed = min(len(loaded.problems), round(config.target_revision_samples / tuples_per_problem))
    return {
        "problems": len(loaded.problems),
        "unreadable records": len(loaded.bad),
        f"prompt tokens of {len(prompts):,} problems": f"{sum(prompts) / len(prompts):.0f} on average, "
        f"{max(prompts):,} at most",
        "prompts that leave the model no room": sum(tokens >= limit for tokens in prompts),
        "sampled tokens of a problem": f"{most:,} at most",
        "sampled tokens of the run": f"{most * len(loaded.problems):,} at most",
        "a guess": f"{needed * per_problem:,.0f} tokens on {needed:,} problems, if responses take "
        f"{ASSUMED_LENGTH:.0%} of MAX_TOKENS and {ASSUMED_YIELD:.0%} of the revisions are kept",
    }


def _show_knobs(config: Any) -> None:
    table = {line.key: line for line in read_knob_table(CONFIGS / "srt_data.yaml") if isinstance(line, KnobLine)}
    print("knobs")
    for field in fields(config):
        value = getattr(config, field.name)
        shown = "null" if value is None else int(value) if isinstance(value, bool) else value
        print(f"  {table[field.name].env}={shown}")


def _visible(ids: list[int], layout: Layout) -> str:
    text = layout.tokenizer.decode(ids, skip_special_tokens=False)
    return "\n".join(f"  | {line}" for line in text.split("\n"))
