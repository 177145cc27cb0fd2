"""--dry-run of sft.sh: knobs, and updates, tokens and GPU hours of each stage; nothing is written."""

from srt.common.console import print_summary
from srt.common.dry_run import SFT, gpu_hours, print_knobs
from srt.common.machine import stated_machine, this_machine
from srt.common.models import count_parameters, load_model_config
from srt.sft.plan import Stage, TrainingPlan, memory_plan


def show_plan(plan: TrainingPlan) -> None:
    print_knobs(plan.config, "sft")
    parameters = count_parameters(load_model_config(plan.config.base_model))
    for stage in plan.stages:
        print_summary(f"Stage {stage.number}, {stage.title}", _stage_summary(plan, stage, parameters))
        if warning := stage.few_updates(plan.tuples_per_update):
            print(f"warning: {warning}")
    machine = stated_machine(plan.config.plan_for, dry_run=True) or this_machine()
    print(f"\n{memory_plan(plan, machine).table(machine)}")
    exists = (plan.output_dir / "run.json").is_file()
    print(f"\noutput: {plan.output_dir} ({'it holds a run, which this would continue' if exists else 'new'})")
    print("dry run: nothing was trained or written")


def _stage_summary(plan: TrainingPlan, stage: Stage, parameters: int) -> dict[str, object]:
    """What a stage costs."""
    lengths = [stage.lengths[index] for index in stage.train]
    updates = stage.count_updates(plan.tuples_per_update)
    tokens = round(sum(lengths) * stage.epochs)
    return {
        "data": stage.description,
        "epochs": stage.epochs,
        "peak learning rate": stage.learning_rate,
        "tuples per update": plan.tuples_per_update,
        "processes": plan.processes.total,
        "updates": updates,
        "tokens": tokens,
        "tokens per tuple": f"{sum(lengths) / len(lengths):,.0f} on average, {max(lengths):,} at most",
        "GPU hours": gpu_hours(tokens, SFT, parameters),
    }
