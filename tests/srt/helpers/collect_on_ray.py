"""Run by test_collection_on_ray.py: run_srt_data.sh's collection on CPU engines of a Ray cluster.

vLLM places an engine where Ray has a device of its platform, and its CPU platform names none: here the nodes claim
to have GPUs, and those are it.
"""


def main(argv: list[str]) -> None:
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.engine.core_client import MPClient

    CpuPlatform.ray_device_key = "GPU"
    MPClient.start_engine_core_monitor = lambda client: None  # some versions watch local processes alone
    from srt.collect.run import collect
    from srt.sampling import vllm_parallel

    vllm_parallel.visible_gpus = lambda: 1
    arguments = vllm_parallel.engine_arguments
    # Without a process for each GPU, which vLLM would place as it places the engine.
    vllm_parallel.engine_arguments = lambda *a, **k: arguments(*a, **k) | {"distributed_executor_backend": "uni"}
    collect(argv)


if __name__ == "__main__":
    from srt.common.entry_point import run_entry_point

    run_entry_point(main)
