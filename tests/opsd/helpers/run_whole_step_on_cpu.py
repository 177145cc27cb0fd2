"""Run by test_whole_step.py: an arm of the benchmark that needs NeMo-RL, on FAKE_GPUS CPU workers.

python run_whole_step_on_cpu.py ARM OPTIONS_AS_JSON RESULT
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parents[2] / "self-distillation" / "benchmarks")]


def main(argv: list[str]) -> None:
    import run_nemo_on_cpu

    from opsd import distill

    arm, options, result = argv
    kind, *knobs = arm.split()

    def measure(_: list[str]) -> None:
        """With what run_nemo_on_cpu.py puts in the place of GPUs and vLLM."""
        import step_ours
        from step_common import Options

        given = dict(knob.split("=", 1) for knob in knobs)
        if kind == "stock":
            figures = stock(Options(**json.loads(options)), given)
        else:
            figures = step_ours.measure(Options(**json.loads(options)), kind, given)
        Path(result).write_text(json.dumps(figures))

    distill.distill = measure
    run_nemo_on_cpu.main([])


def stock(options: Any, knobs: dict[str, str]) -> dict[str, Any]:
    import ray
    import step_stock
    import stock_on_cpu
    from nemo_rl.algorithms import distillation

    init = ray.init
    ray.init = lambda **settings: init(**settings | ({"num_cpus": 16} if settings else {}))  # a worker wants one
    step_stock.POLICY_WORKER = "stock_on_cpu.CpuStockWorker"
    distillation.VllmGeneration = stock_on_cpu.Generation
    distillation.refit_policy_generation = lambda student, *_, **__: student.offload_before_refit()
    recipe = step_stock.recipe

    def in_fp32(*settings: Any) -> Any:
        config = recipe(*settings)
        for section in (config.policy, config.teacher):
            section["precision"] = "float32"
        return config

    step_stock.recipe = in_fp32
    return step_stock.measure(options, int(os.environ["FAKE_GPUS"]), knobs)


if __name__ == "__main__":
    from srt.common.entry_point import run_entry_point

    run_entry_point(main)
