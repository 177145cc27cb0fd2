"""--dry-run: the knobs, prompts and token estimate of a collection, without starting or writing anything."""

from dataclasses import replace
from pathlib import Path

from srt.collect.config import CollectConfig
from srt.common.console import print_summary
from srt.common.dry_run import ASSUMED_LENGTH, SAMPLING, gpu_hours, print_knobs
from srt.common.machine import Machine
from srt.common.memory_plan import MemoryPlan, ModelShape, make_plan
from srt.common.models import context_limit, count_parameters, load_model_config
from srt.common.sampler_memory import collection_terms, describe_cache
from srt.contract.layout import Layout
from srt.problems import ProblemSet
from srt.sampling.from_config import MEASURED_PROMPTS, has_vllm, longest_sequence
from srt.sampling.vllm_parallel import engine_count

SHOWN_PROMPTS = 2
ASSUMED_YIELD = 0.1  # rough: kept tuples per revision, most revisions of a wrong y_init stay wrong


def show_plan(
    config: CollectConfig, loaded: ProblemSet, layout: Layout, output_dir: Path, machine: Machine
) -> None:
    """`config`: with the defaults of unset options filled in; `machine`: the one to plan for."""
    print_knobs(config, "srt_data")
    for problem in loaded.problems[:SHOWN_PROMPTS]:
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
    _show_memory(config, loaded, layout, machine)
    exists = (output_dir / "run.json").is_file()
    print(f"\noutput: {output_dir} ({'it holds a run, which this would continue' if exists else 'new'})")
    print("dry run: no engine was started, nothing was written")


def estimate(config: CollectConfig, loaded: ProblemSet, layout: Layout) -> dict[str, object]:
    """Tokens to sample: the upper bound, and a guess based on rough assumptions about length and yield."""
    prompts = [len(layout.chat(problem.x)) for problem in loaded.problems[:MEASURED_PROMPTS]]
    limit = context_limit(config.model_path)
    bound = config.num_responses * (1 + config.num_revisions) * config.max_tokens  # of one problem
    tokens_per_problem = ASSUMED_LENGTH * bound
    tuples_per_problem = config.num_responses * config.num_revisions * ASSUMED_YIELD
    needed = min(len(loaded.problems), round(config.target_revision_samples / tuples_per_problem))
    return {
        "problems": len(loaded.problems),
        "unreadable records": len(loaded.bad),
        f"prompt tokens of {len(prompts):,} problems": f"{sum(prompts) / len(prompts):.0f} on average, "
        f"{max(prompts):,} at most",
        "prompts beyond the context length": sum(tokens >= limit for tokens in prompts),
        "sampled tokens per problem": f"{bound:,} at most",
        "sampled tokens in total": f"{bound * len(loaded.problems):,} at most",
        "rough guess": f"{needed * tokens_per_problem:,.0f} tokens on {needed:,} problems, if responses use "
        f"{ASSUMED_LENGTH:.0%} of MAX_TOKENS and {ASSUMED_YIELD:.0%} of the revisions are kept",
        "GPU hours of this guess": gpu_hours(
            needed * tokens_per_problem, SAMPLING, count_parameters(load_model_config(config.model_path))
        ),
    }


def _show_memory(config: CollectConfig, loaded: ProblemSet, layout: Layout, machine: Machine) -> None:
    """vLLM's on GPUs. What transformers takes grows with its batch, and there is no plan of it."""
    if not machine.gpus or config.sampler == "transformers" or not (machine.stated or has_vllm()):
        return
    prompts = [layout.chat(problem.x) for problem in loaded.problems[:MEASURED_PROMPTS]]
    longest = longest_sequence(config.model_path, layout, prompts, config.max_tokens)
    model_config = load_model_config(config.model_path)
    shape = ModelShape.of(model_config, count_parameters(model_config))
    plan = memory_plan(config, shape, longest, machine)
    print(f"\n{plan.table(machine)}")
    print(describe_cache(shape, plan.gpu["sampling"], config.tensor_parallel_size, longest))


def memory_plan(config: CollectConfig, shape: ModelShape, longest: int, machine: Machine) -> MemoryPlan:
    """Of one engine on every TENSOR_PARALLEL_SIZE GPUs, or of DATA_PARALLEL_SIZE engines. What an engine may take
    is its share of a GPU. `longest`: sequence, in tokens.

    Raises UserError for more engines than the machine has GPUs for.
    """
    size = config.tensor_parallel_size
    engines = engine_count(config.data_parallel_size, size, config.data_parallel_backend, machine.gpus)
    processes = min(machine.gpus, (engines or 1) * size)
    share = int(config.gpu_memory_utilization * machine.gpu_total)
    terms = collection_terms(
        shape,
        share=share,
        longest=longest,
        tensor_parallel=size,
        processes=processes,
        number_bytes=4 if config.dtype == "float32" else 2,
    )
    available = min(share, machine.gpu_bytes or share)
    title = f"{engines or 1} vLLM engine{'s' * ((engines or 1) > 1)}"
    return make_plan(title, terms, replace(machine, gpu_bytes=available), processes, [])


def _visible(ids: list[int], layout: Layout) -> str:
    text = layout.tokenizer.decode(ids, skip_special_tokens=False)
    return "\n".join(f"  | {line}" for line in text.split("\n"))
