"""Progress bar, and the completeness marker of checkpoints."""

import json
import math
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from srt.common.errors import UserError
from srt.common.progress import Progress
from srt.common.resume import write_sizes
from srt.sft.batching import BatchPlan

COMPLETE = "complete"  # a file in each checkpoint, written last


class CheckpointMarker(TrainerCallback):
    """Marks complete checkpoints and skips the one at the last update.

    The Trainer writes checkpoints in place, so one that was interrupted by a kill looks complete; on_save runs
    after its last file was written.
    """

    def on_step_end(self, args, state, control, **kwargs):
        # The Trainer would also save at the last update, but the export follows and does not need it. A run that
        # fails to export (killed, disk full) repeats the updates since its newest checkpoint.
        if state.global_step >= state.max_steps:
            control.should_save = False

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_sizes(folder)
            (folder / COMPLETE).write_text(json.dumps({"step": state.global_step}))


class ProgressBar(TrainerCallback):
    """One bar per stage, with the loss and the rate in non-padding tokens; also requests the final validation.

    The rate covers the updates alone, not the checkpoints and validations between them. The first update of a run,
    in which kernels are compiled, counts only if it is the only one.
    """

    def __init__(self, title: str, plan: BatchPlan, lengths: list[int]):
        self.title = title
        self.bar: Progress | None = None
        self.loss = ""
        self.first_update = 0  # > 0 when resumed
        self.update_started = 0.0
        self.update_seconds: list[float] = []
        self.cumulative_tokens = [0]  # number of updates -> tokens
        for update in plan.updates:
            self.cumulative_tokens.append(self.cumulative_tokens[-1] + sum(lengths[index] for index in update))

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_update = state.global_step
        if state.is_world_process_zero:
            self.bar = Progress(self.title, initial=state.global_step / state.max_steps)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, args, state, control, **kwargs):
        self.update_started = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.update_seconds.append(time.monotonic() - self.update_started)
        if self.bar is not None:
            updates = f"{state.global_step:,}/{state.max_steps:,} updates"
            rate = f"{rate:,.0f} tok/s" if (rate := self.rate()) else ""
            self.bar.show(state.global_step / state.max_steps, updates, self.loss, rate)
        if state.global_step == state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            if not (math.isfinite(logs["loss"]) and math.isfinite(logs.get("grad_norm", 0.0))):
                raise UserError(
                    f"{self.title}, update {state.global_step}: the loss is {logs['loss']} and the gradient norm "
                    f"is {logs.get('grad_norm')}; the newest checkpoint is from an earlier update. Start again "
                    "with a lower learning rate and a new OUTPUT_DIR"
                )
            self.loss = f"loss {logs['loss']:.3f}"

    def tokens(self, update: int) -> int:
        """Tokens trained on in this run (not before it was resumed), up to `update`."""
        return self.cumulative_tokens[update] - self.cumulative_tokens[self.first_update]

    def rate(self) -> float | None:
        """Tokens per second, summed over all processes; None before the first update."""
        if not self.update_seconds:
            return None
        skipped = min(1, len(self.update_seconds) - 1)
        tokens = self.tokens(self.first_update + len(self.update_seconds)) - self.tokens(
            self.first_update + skipped
        )
        return tokens / sum(self.update_seconds[skipped:])

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
