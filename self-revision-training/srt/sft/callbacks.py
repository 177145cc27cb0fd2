"""What people see of a training, and the mark of a checkpoint that is whole."""

import json
import math
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from srt.common.console import progress
from srt.common.errors import UserError
from srt.sft.batching import Plan

COMPLETE = "complete"  # marks a checkpoint whose last file was written


class Checkpoints(TrainerCallback):
    """None at the last update, and a mark in each that is whole.

    The Trainer writes checkpoints in place, so a killed one looks whole; on_save comes after its last file.
    """

    def on_step_end(self, args, state, control, **kwargs):
        # The Trainer would save here, too; but the export comes next and needs nothing of it. A run that does not
        # get through the export (killed, disk full) repeats the updates since its newest checkpoint.
        if state.global_step >= state.max_steps:
            control.should_save = False

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).write_text(
                json.dumps({"step": state.global_step})
            )


class Progress(TrainerCallback):
    """One bar a stage, with the loss and the rate in tokens that are no padding; an evaluation at the end.

    The rate is that of the updates alone, without what comes between them: checkpoints and evaluations. The run's
    first update, in which kernels are compiled, counts only where it is the only one.
    """

    def __init__(self, title: str, plan: Plan, lengths: list[int]):
        self.title = title
        self.bar = None
        tokens = [sum(lengths[index] for index in update) for update in plan.updates]
        self.tokens_after = [0]  # updates -> tokens
        for count in tokens:
            self.tokens_after.append(self.tokens_after[-1] + count)

    def on_train_begin(self, args, state, control, **kwargs):
        self.first = state.global_step
        self.seconds: list[float] = []  # of each update
        if state.is_world_process_zero:
            self.bar = progress(state.max_steps, "update", initial=state.global_step)
            self.bar.set_description(self.title)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, args, state, control, **kwargs):
        self.began = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.monotonic() - self.began)
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
        if state.global_step == state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            if not (math.isfinite(logs["loss"]) and math.isfinite(logs.get("grad_norm", 0.0))):
                raise UserError(
                    f"{self.title}, update {state.global_step}: the loss is {logs['loss']} and the gradient's "
                    f"norm {logs.get('grad_norm')}; the newest checkpoint is from before. A lower learning rate "
                    "in a new OUTPUT_DIR is the usual remedy"
                )
            if self.bar is not None:
                self.bar.set_postfix_str(f"loss {logs['loss']:.3f}, {self.rate():.0f} tok/s", refresh=False)

    def tokens(self, update: int) -> int:
        """Tokens that this process's run has trained on, from its first update to `update`."""
        return self.tokens_after[update] - self.tokens_after[self.first]

    def rate(self) -> float | None:
        """Tokens a second, of all processes together; None before the first update."""
        if not self.seconds:
            return None
        skipped = min(1, len(self.seconds) - 1)
        done = self.first + len(self.seconds)
        return (self.tokens_after[done] - self.tokens_after[self.first + skipped]) / sum(self.seconds[skipped:])

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
