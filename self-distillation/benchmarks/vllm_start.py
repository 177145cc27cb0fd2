"""Where the time of a vLLM start goes, what its compile cache saves, and what cheaper starts cost in tokens/s.

    PYTHONPATH=self-revision-training:self-distillation python self-distillation/benchmarks/vllm_start.py \
        model=path/to/model json=vllm_start.json

The engine is the local engine's of Phase 2, apart from what a variant changes. Each starts in a process of its
own, in this order, with one VLLM_CACHE_ROOT that is empty at first:

- cold: everything is compiled;
- warm: the same again;
- elsewhere: the same model under another path, as a checkpoint of the same architecture would be;
- shorter: another max_model_len;
- graphs: CUDA graphs for batches up to max_num_seqs instead of twice as many, at most 512;
- few graphs: for 1, 2, 4, ... and, above 32, four sizes between one power of two and the next;
- autotune off: without FlashInfer's autotuning;
- not compiled: without torch.compile, with CUDA graphs for decoding;
- eager: neither compilation nor graphs.

vLLM 0.20 finds compiled code by a key of the engine's whole configuration: the model's config and its context,
the sizes of CUDA graphs, sleep mode and most VLLM_ variables are in it; the share of the memory, max_num_seqs, the
seed and the prefix cache are not. So engines that differ in the first compile again. The model's path would be in
it, too, without srt/sampling/vllm_compile_key.py.

A variant is started twice where it changes what is compiled, so that `start` is with a warm cache. `parts` are
what vLLM's own messages say. tokens/s: long-tailed requests as in whole_step.py, whose options are these, after a
few to warm up.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from step_common import Options, in_steps, length_of

from srt.common.name_values import read_name_values

VARIANTS = (
    "cold",
    "warm",
    "elsewhere",
    "shorter",
    "graphs",
    "few graphs",
    "autotune off",
    "not compiled",
    "eager",
)
TWICE = ("graphs", "few graphs", "autotune off")


@dataclass(frozen=True)
class StartOptions(Options):
    variants: str = ",".join(VARIANTS)
    prompts: int = 256
    steps: int = 1
    memory: float = 0.6  # vLLM's share of the GPU


def few_sizes(largest: int) -> list[int]:
    """1, 2, 4, ..., 32, then four sizes between one power of two and the next, up to `largest`."""
    sizes = {largest} | {2**power for power in range(6) if 2**power < largest}
    power = 32
    while power < largest:
        sizes |= {size for size in range(power, 2 * power, power // 4) if size < largest}
        power *= 2
    return sorted(sizes)


def changes(variant: str, options: StartOptions, folder: Path) -> dict[str, Any]:
    """To the engine's arguments."""
    if variant == "elsewhere":
        (folder / "elsewhere").symlink_to(Path(options.model).resolve())
        return {"model": str(folder / "elsewhere")}
    if variant == "few graphs":
        return {"compilation_config": {"cudagraph_capture_sizes": few_sizes(options.sampler_batch)}}
    return {
        "shorter": {"max_model_len": options.prompt_tokens + options.max_tokens - 16},
        "graphs": {"max_cudagraph_capture_size": options.sampler_batch},
        "autotune off": {"enable_flashinfer_autotune": False},
        "not compiled": {"compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}},
        "eager": {"enforce_eager": True},
    }.get(variant, {})


def start(variant: str, options: StartOptions, folder: Path) -> dict[str, Any]:
    """In a process of its own."""
    from srt.sampling.vllm_common import engine_arguments, prepare_vllm
    from srt.sampling.vllm_start import StartMessages

    begun = time.monotonic()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    on_gpu = prepare_vllm()
    from vllm import LLM, SamplingParams
    from vllm.inputs import tokens_input

    imported = time.monotonic()
    arguments = engine_arguments(
        options.model,
        on_gpu=on_gpu,
        max_model_len=options.prompt_tokens + options.max_tokens,
        max_batch=options.sampler_batch,
        dtype="auto",
        memory_utilization=options.memory,
        tensor_parallel_size=1,
        seed=0,
    )
    arguments |= {"enable_sleep_mode": on_gpu} | changes(variant, options, folder)
    messages = StartMessages()
    with messages.listening():
        llm = LLM(**arguments)
    chats = in_steps(options)[0]

    def generate(chats: list[list[int]]) -> float:
        limits = [length_of(chat, options) for chat in chats]
        params = [SamplingParams(max_tokens=limit, ignore_eos=True, seed=limit, logprobs=0) for limit in limits]
        before = time.monotonic()
        llm.generate([tokens_input(chat) for chat in chats], params, use_tqdm=False)
        return sum(limits) / (time.monotonic() - before)

    generate(chats[:4])
    return {
        "import": imported - begun,
        "start": messages.seconds,
        "parts": messages.parts,
        "tokens_per_second": generate(chats),
    }


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["start"]:  # one of our own processes
        variant, given, folder, result = arguments[1:]
        figures = start(variant, StartOptions(**json.loads(given)), Path(folder))
        Path(result).write_text(json.dumps(figures))
        sys.stdout.flush()
        os._exit(0)  # vLLM's own end takes seconds
    options = read_name_values(StartOptions, arguments, __doc__)
    figures: dict[str, Any] = {"options": asdict(options), "variants": {}}
    print(f"\n{'':<14}{'import':>8}{'start':>8}{'tokens/s':>10}  parts of the start, in seconds")
    with tempfile.TemporaryDirectory() as cache:
        for variant in options.variants.split(","):
            for _ in range(2 if variant in TWICE else 1):
                made = in_a_process(variant, options, cache)
            figures["variants"][variant] = made
            print(line(variant, made), flush=True)
            if options.json:
                Path(options.json).write_text(json.dumps(figures, indent=1))


def in_a_process(variant: str, options: StartOptions, cache: str) -> dict[str, Any] | None:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, __file__, "start", variant, json.dumps(asdict(options)), folder, str(result)]
        done = subprocess.run(command, env=os.environ | {"VLLM_CACHE_ROOT": cache}, capture_output=True, text=True)
        if not result.is_file():
            print(f"{variant}: FAILED\n" + done.stderr[-1500:], flush=True)
            return None
        return json.loads(result.read_text())


def line(variant: str, made: dict[str, Any] | None) -> str:
    if made is None:
        return f"{variant:<14}  failed"
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in made["parts"].items())
    return f"{variant:<14}{made['import']:>8.1f}{made['start']:>8.1f}{made['tokens_per_second']:>10.0f}  {parts}"


if __name__ == "__main__":
    main(sys.argv[1:])
