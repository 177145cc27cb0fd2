"""Matrix products of the training part: how many floating-point operations a step needs, and the card's rate."""

import statistics
import time
from dataclasses import dataclass

from step_common import Step

from srt.common.models import load_model_config, model_without_weights

FORWARD, BACKWARD = 1, 2  # passes that cost as much as a forward pass


@dataclass(frozen=True)
class Arithmetic:
    """Of a model. `body`: weights of the layers' matrices; `head`: of the LM head; `attention`: layers x heads x
    head size."""

    body: int
    head: int
    attention: int

    @classmethod
    def of(cls, model_path: str) -> "Arithmetic":
        config = load_model_config(model_path)
        text = config.get_text_config()
        embedding = text.vocab_size * text.hidden_size
        matrices = sum(p.numel() for p in model_without_weights(config).parameters() if p.dim() >= 2)
        copies = 1 if text.tie_word_embeddings else 2
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            matrices - copies * embedding, embedding, text.num_hidden_layers * text.num_attention_heads * size
        )

    def forward(self, lengths: list[int]) -> float:
        """Of the layers, on sequences of these lengths: two operations for each weight and token, and causal
        attention's products with keys and values."""
        return sum(2.0 * self.body * length + 2.0 * self.attention * length**2 for length in lengths)

    def logits(self, tokens: int) -> float:
        return 2.0 * self.head * tokens


def step_work(model: Arithmetic, step: Step, cue: int, checkpointing: bool = True) -> dict[str, float]:
    """Operations of the parts "teacher" and "student". `cue`: tokens between y and y in the teacher's sequence;
    -1: it reads the student's.

    Logits count for the tokens of y alone, the teacher's to the part that computes them: in ours the student's.
    Recomputed activations are counted, since the card computes them.
    """
    students = [prompt + y for prompt, y in step.lengths]
    teachers = students if cue < 0 else [prompt + 2 * y + cue for prompt, y in step.lengths]
    logits = model.logits(sum(y for _, y in step.lengths))
    passes = FORWARD + BACKWARD + (FORWARD if checkpointing else 0)
    student = passes * model.forward(students) + (FORWARD + BACKWARD) * logits
    if cue < 0:
        return {"teacher": model.forward(teachers) + logits, "student": student}
    return {"teacher": model.forward(teachers), "student": student + logits}


def matmul_rate(size: int) -> float:
    """Operations per second of a bf16 matrix product on this device; the median of ten after a warm-up."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(15):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.monotonic()
        for _ in range(10):
            left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.monotonic() - started) / 10)
    return 2.0 * size**3 / statistics.median(seconds[5:])
