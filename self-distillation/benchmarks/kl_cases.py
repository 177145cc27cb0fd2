"""Hidden states and lm_heads for the KL's benchmark: random ones, near-equal ones, and a model's own."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from opsd.hidden_states import lm_head, predicting_hidden
from opsd.pairs import build_pair, micro_batches
from opsd.rollouts import Rollout
from srt.common.models import load_model, padding_id
from srt.config_groups import PromptConfig
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.records import Problem
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.transformers import TransformersSampler

QUESTIONS = (
    "What is {a} * {b} + {b}?",
    "Write a Python function that returns the {a} smallest primes above {b}.",
    "A train covers {a} km in {b} minutes. How fast is it in km/h?",
    "Explain in a few sentences what happens when {a} people share {b} apples.",
    "Write a program that reads {a} numbers and prints the ones that divide {b}.",
    "How many ways are there to write {a} as a sum of two squares? Check it for {b} too.",
)


@dataclass(frozen=True)
class Case:
    """Inputs of exact_kl: T tokens, width H, V vocab entries."""

    name: str
    student_hidden: Tensor
    student_head: Tensor
    teacher_hidden: Tensor
    teacher_head: Tensor

    @cached_property
    def weights(self) -> Tensor:
        tokens = len(self.student_hidden)
        return torch.full((tokens,), 1 / tokens, dtype=torch.float32, device=self.student_hidden.device)

    def leaves(self) -> tuple[Tensor, Tensor]:
        return (self.student_hidden.requires_grad_(), self.student_head.requires_grad_())

    def first(self, tokens: int) -> "Case":
        return replace(
            self,
            student_hidden=self.student_hidden.detach()[:tokens].clone(),
            teacher_hidden=self.teacher_hidden[:tokens],
        )

    def widened(self, width: int) -> "Case":
        """The same logits at another width, from hidden states and lm_heads rotated into `width` dimensions.

        Rotated rather than padded, because products with zeros draw less power and run faster than real ones.
        """
        generator = torch.Generator(self.student_hidden.device).manual_seed(0)

        def rotated(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            shape = (width, hidden.shape[1])
            noise = torch.randn(shape, generator=generator, device=hidden.device)
            rotation = torch.linalg.qr(noise).Q.T  # (H, width), orthonormal rows
            return tuple((x.detach().float() @ rotation).to(x.dtype) for x in (hidden, weight))

        student, teacher = (self.student_hidden, self.student_head), (self.teacher_hidden, self.teacher_head)
        if width < self.student_hidden.shape[1]:
            raise ValueError(f"width {width} is below the model's {self.student_hidden.shape[1]}")
        new_student = rotated(*student)
        new_teacher = rotated(*teacher)
        return Case(self.name, *new_student, *new_teacher)


def random_case(tokens: int, width: int, vocab: int, device: str, dtype: torch.dtype, scale: float = 3.0) -> Case:
    """Two unrelated models; `scale` is the standard deviation of their logits."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(dtype)

    def model() -> tuple[Tensor, Tensor]:
        return normal(tokens, width), (normal(vocab, width) * (scale / math.sqrt(width))).to(dtype)

    return Case("random" if scale > 1 else "flat", *model(), *model())


def near_equal_case(tokens: int, width: int, vocab: int, device: str, dtype: torch.dtype) -> Case:
    """The teacher is the student with 1% of noise, as early in Phase 2."""
    case = random_case(tokens, width, vocab, device, dtype, scale=4.0)
    generator = torch.Generator(device).manual_seed(1)
    noise = torch.randn(case.student_hidden.shape, generator=generator, device=device)
    return replace(
        case,
        name="near-equal",
        teacher_hidden=(case.student_hidden.float() * (1 + 0.01 * noise)).to(dtype),
        teacher_head=case.student_head,
    )


@torch.no_grad()
def model_case(path: str, tokens: int, response_tokens: int = 256) -> Case:
    """A checkpoint's hidden states on its own responses: student chat + y, teacher chat + y + cue + y."""
    layout = layout_of_checkpoint(path, PromptConfig("math", None, None, None, None))
    model = load_model(path)
    model.eval()
    pad_id = padding_id(path, layout.tokenizer, layout.eot_ids[0])
    sampler = TransformersSampler(model, pad_id, SamplingConfig(1.0, 1.0, tuple(layout.eot_ids)), max_batch=192)
    pairs, generated, seed = [], 0, 0
    while generated < tokens:
        chats, requests = [], []
        for _ in range(min(192, math.ceil((tokens - generated) / response_tokens * 1.25))):
            question = QUESTIONS[seed % len(QUESTIONS)].format(a=seed % 37 + 11, b=seed % 53 + 29)
            chats.append(layout.chat(question))
            requests.append(SampleRequest(chats[-1], seed, response_tokens))
            seed += 1
        for index, sample in enumerate(sample_all(sampler, requests)):
            problem = Problem(id=str(index), x="", answer="")
            rollout = Rollout(
                problem, chats[index], sample.token_ids, sample.logprobs, sample.finish_reason, index % 2
            )
            pairs.append(build_pair(rollout, layout, max_teacher_tokens=2**20))
            generated += len(sample.token_ids)
    student, teacher = [], []
    for batch in micro_batches(pairs, 16384):
        student.append(predicting_hidden(model, [pair.student for pair in batch], pad_id))
        teacher.append(predicting_hidden(model, [pair.teacher for pair in batch], pad_id))
    weight = lm_head(model).weight.detach().clone()
    shuffled = torch.randperm(generated, generator=torch.Generator().manual_seed(0))[:tokens].to(weight.device)
    hidden = [torch.cat(parts)[shuffled].to(weight.dtype) for parts in (student, teacher)]
    return Case("model", hidden[0], weight, hidden[1], weight)
