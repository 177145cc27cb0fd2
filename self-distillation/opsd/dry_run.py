"""--dry-run of distill.sh: knobs, steps, tokens and GPU hours; no engine is started, nothing is written."""

from opsd.memory import describe_sampler, memory_plan
from opsd.run import Run
from srt.common.console import print_summary
from srt.common.dry_run import ASSUMED_LENGTH, DISTILLATION, gpu_hours, print_knobs
from srt.common.machine import Machine
from srt.common.models import count_parameters, load_model_config

MEASURED_PROMPTS = 1000  # problems whose prompts are tokenized


def show_plan(run: Run, machine: Machine) -> None:
    """`machine`: the one to plan for."""
    print_knobs(run.config, "distill")
    print_summary("Self-distillation", estimate(run))
    plan = memory_plan(run, machine)
    print(f"\n{plan.table(machine)}")
    for line in (describe_sampler(run, plan, machine), plan.advice()):
        if line:
            print(line)
    exists = (run.output_dir / "run.json").is_file()
    print(f"\noutput: {run.output_dir} ({'it holds a run, which this would continue' if exists else 'new'})")
    print("dry run: no engine was started, nothing was written")


def estimate(run: Run) -> dict[str, object]:
    """What the run costs, apart from validation."""
    prompts = [len(run.layout.chat(problem.x)) for problem in run.train_set.problems[:MEASURED_PROMPTS]]
    prompt = sum(prompts) / len(prompts)
    responses = run.total_steps * run.config.num_prompts_per_step
    room = max(run.max_total_tokens - prompt, 0)  # of a response
    guess = ASSUMED_LENGTH * room * responses
    validation = run.validation_set.problems if run.validation_set else []
    return {
        "problems": len(run.train_set.problems),
        "passes over the problems": responses / len(run.train_set.problems),
        "steps": run.total_steps,
        "updates": run.total_updates,
        "responses": responses,
        "prompt tokens": f"{prompt:,.0f} on average of {len(prompts):,} problems, {max(prompts):,} at most",
        "response tokens": f"{responses * room:,.0f} at most, {guess:,.0f} if responses use {ASSUMED_LENGTH:.0%} "
        "of their limit",
        "validations": _count_validations(run) if validation else 0,
        "responses per validation": len(validation) * run.config.val_num_samples,
        "GPU hours": gpu_hours(guess, DISTILLATION, count_parameters(load_model_config(run.config.student_model))),
    }


def _count_validations(run: Run) -> int:
    """Before the first step, after every VAL_PERIOD steps and at the end."""
    return len({0, *range(0, run.total_steps, run.config.val_period), run.total_steps})
