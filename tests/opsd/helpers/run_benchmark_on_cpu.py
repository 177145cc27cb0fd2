"""Run by test_benchmarks.py: a benchmark of NeMo-RL's workers, on a CPU worker.

python run_benchmark_on_cpu.py backends|against_stock NAME=VALUE ...
"""

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parents[2] / "self-distillation" / "benchmarks")]


def main(argv: list[str]) -> None:
    import run_nemo_on_cpu

    from opsd import distill

    name, *options = argv

    def measure(_: list[str]) -> None:
        """With what run_nemo_on_cpu.py puts in the place of GPUs."""
        import ray

        from opsd.nemo_rl.driver import config, runtime, worker_group

        init = ray.init
        ray.init = lambda **settings: init(**settings | {"num_cpus": 16})  # a worker wants one
        runtime.WORKERS, config.policy_config = worker_group.WORKERS, worker_group.policy_config
        runtime.prepare_megatron = lambda _: None  # asks the GPU's driver
        benchmark = importlib.import_module(name)
        benchmark.STOCK_WORKER = "stock_on_cpu.CpuStockWorker"
        benchmark.main(options)

    distill.distill = measure
    run_nemo_on_cpu.main([])


if __name__ == "__main__":
    from srt.common.entry_point import run_entry_point

    run_entry_point(main)
