"""The rivals, trained with TRL's own trainers on one GPU.

    python -m experiments.one_gpu.trl_baselines kind=sft data=responses.jsonl model=MODEL output=DIR

`sft`: SFTTrainer on the responses in `data`; with those of `baseline_data.py`, rejection fine-tuning (RFT) or its
majority-vote twin. Epochs, rate, batch and schedule are those of srt's stages (configs/sft.yaml).
`grpo`: GRPOTrainer on the problems in `data`, 8 responses to each problem of a step, reward of the verifier.
`sdft`: SDFTTrainer (experimental in TRL), whose teacher reads a right response in its prompt.
The model is written to `output`/model in bf16, the settings with the samples of a step to `output`/settings.json.
"""

import json
import math
import os
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback

from experiments.one_gpu.trl_settings import GENERATIONS, SETTINGS_FILE, TrlSettings
from srt.common.entry_point import run_entry_point
from srt.common.errors import UserError
from srt.common.files import read_jsonl, write_json
from srt.common.models import load_model
from srt.common.name_values import read_name_values
from srt.config_groups import GradingConfig, PromptConfig
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.layout import Layout
from srt.contract.records import unpack_ids
from srt.problems import load_problems
from srt.verifiers.factory import open_grader

GRADING = GradingConfig("math", 4, 10.0, "bwrap", 5.0, 512.0, 1.0)
DEMONSTRATION = (
    "{prompt}\n\nHere is a correct solution, as an example:\n\n{privileged_context}\n\n"
    "Now answer in your own words."
)


def shared_arguments(settings: TrlSettings) -> dict[str, Any]:
    """Of all of TRL's trainers."""
    return {
        "output_dir": str(settings.output),
        "learning_rate": settings.lr,
        "bf16": torch.cuda.is_available(),
        "gradient_checkpointing": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "lr_scheduler_type": "cosine",
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "seed": settings.seed,
    }


def sampling_arguments(settings: TrlSettings) -> dict[str, Any]:
    """Of the trainers that sample: the size of a step, and how its responses are drawn."""
    arguments = {
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.micro_batch,
        "gradient_accumulation_steps": settings.samples_per_step // settings.micro_batch,
        "num_generations": GENERATIONS[settings.kind],
        "max_completion_length": settings.max_tokens,
        "temperature": 1.0,
        "top_p": 1.0,
    }
    if settings.sampler == "vllm":
        arguments |= {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.3}
    return arguments


def train_sft(model: Any, layout: Layout, settings: TrlSettings) -> Any:
    """Cross entropy on the responses, each after its own prompt, token ids as sampled."""
    from trl import SFTConfig, SFTTrainer

    rows = []
    for line in read_jsonl(settings.data):
        chat = layout.chat(line["x"])
        y = layout.with_eot(unpack_ids(line["y_ids"]))
        rows.append({"input_ids": chat + y, "completion_mask": [0] * len(chat) + [1] * len(y)})
    arguments = SFTConfig(
        num_train_epochs=settings.epochs,
        warmup_steps=round(0.05 * settings.epochs * len(rows) / settings.tuples_per_update),
        weight_decay=1e-4,
        per_device_train_batch_size=settings.tuples_per_update,
        completion_only_loss=True,
        max_length=4096,
        **shared_arguments(settings),
    )
    return SFTTrainer(model, arguments, train_dataset=Dataset.from_list(rows), processing_class=layout.tokenizer)


def train_grpo(model: Any, layout: Layout, settings: TrlSettings) -> Any:
    """Group-relative policy optimization with TRL's defaults (no KL to a reference) and the verifier's reward."""
    from trl import GRPOConfig, GRPOTrainer

    problems = {
        problem.id: problem for problem in load_problems(str(settings.data), "math", None, "train", 0).problems
    }
    rows = [{"prompt": layout.prompt.messages(problem.x), "problem_id": id_} for id_, problem in problems.items()]
    grader = open_grader(GRADING).__enter__()

    def reward(completions: list, completion_ids: list[list[int]], problem_id: list[str], **_: Any) -> list[float]:
        items = [
            (layout.decode(ids), problems[id_], "stop" if ids and ids[-1] in layout.eot_ids else "length")
            for ids, id_ in zip(completion_ids, problem_id, strict=True)
        ]
        return [float(getattr(outcome, "correct", False)) for outcome in grader.grade_all(items)]

    arguments = GRPOConfig(**shared_arguments(settings), **sampling_arguments(settings))
    dataset = Dataset.from_list(rows)
    return GRPOTrainer(model, reward, arguments, train_dataset=dataset, processing_class=layout.tokenizer)


def train_sdft(model: Any, layout: Layout, settings: TrlSettings) -> Any:
    """On-policy self-distillation from a teacher that reads a right response, with TRL's defaults."""
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    rows = [
        {"prompt": layout.prompt.messages(line["x"]), "privileged_context": line["y"]}
        for line in read_jsonl(settings.data)
    ]
    arguments = SDFTConfig(
        max_prompt_length=2048,
        teacher_prompt_template=DEMONSTRATION,
        **shared_arguments(settings),
        **sampling_arguments(settings),
    )
    return SDFTTrainer(model, arguments, train_dataset=Dataset.from_list(rows), processing_class=layout.tokenizer)


class StopOnNaN(TrainerCallback):
    """Ends the job at the first update whose gradient is not finite: the Trainer would go on, with a loss of 0."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not math.isfinite(float((logs or {}).get("grad_norm", 0.0))):
            raise UserError(f"update {state.global_step}: the gradient's norm is {logs['grad_norm']}")


TRAINERS = {"sft": train_sft, "grpo": train_grpo, "sdft": train_sdft}


def main(arguments: list[str]) -> None:
    settings = read_name_values(TrlSettings, arguments, __doc__).completed()
    folder = settings.output
    write_json(folder / SETTINGS_FILE, settings.as_dict())
    layout = layout_of_checkpoint(settings.model, PromptConfig("math", None, None, settings.prompt_suffix, None))
    # fp32 master weights, as in this repository's own trainers; forward passes run in bf16.
    model = load_model(settings.model, "float32")
    trainer = TRAINERS[settings.kind](model, layout, settings)
    trainer.add_callback(StopOnNaN())
    trainer.train()
    (folder / "training_log.json").write_text(json.dumps(trainer.state.log_history), encoding="utf-8")
    finished = folder / "model.work"
    trainer.model.to(torch.bfloat16).save_pretrained(finished)
    layout.tokenizer.save_pretrained(finished)
    os.replace(finished, folder / "model")


if __name__ == "__main__":
    run_entry_point(main)
