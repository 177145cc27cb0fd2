"""Sampling with transformers' `generate`: no extra package, any device, and also a model in training."""

import contextlib
import inspect
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from srt.common.models import load_model, load_tokenizer, padding_id
from srt.sampling.base import Sample, SampleRequest, SamplingConfig


@dataclass
class _Pending:
    """A request and what was sampled of it before the batch ended that it was in."""

    key: Hashable
    request: SampleRequest
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def prompt_ids(self) -> list[int]:
        return self.request.prompt_ids + self.ids

    @property
    def max_tokens(self) -> int:
        """Tokens that may still follow."""
        return self.request.max_tokens - len(self.ids)

    def extend(self, ids: list[int], logprobs: list[float], eot_ids: tuple[int, ...]) -> Sample | None:
        """Take over new tokens, up to the end of turn or the token limit; the sample, if that ends it."""
        reason = "length" if len(ids) >= self.max_tokens else None
        ids = ids[: self.max_tokens]
        if ends := [position for position, token in enumerate(ids) if token in eot_ids]:
            reason, ids = "stop", ids[: ends[0] + 1]
        self.ids += ids
        self.logprobs += logprobs[: len(ids)]
        return Sample(self.ids, reason, self.logprobs) if reason else None


class _Enough(StoppingCriteria):
    """Ends a batch when `enough` of its samples have ended."""

    def __init__(self, batch: list[_Pending], enough: int, eot_ids: tuple[int, ...], device: torch.device):
        self.enough = enough
        self.limits = torch.tensor([pending.max_tokens for pending in batch], device=device)  # (B,)
        self.eot_ids = torch.tensor(eot_ids, device=device)
        self.ended = torch.zeros_like(self.limits, dtype=torch.bool)
        self.steps = 0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.steps += 1
        self.ended |= torch.isin(input_ids[:, -1], self.eot_ids) | (self.steps >= self.limits)
        return torch.full_like(self.ended, bool(self.ended.sum() >= self.enough))


class _SeededSampling(LogitsProcessor):
    """Draws the next token of each sequence from that sequence's own random numbers, and records its log-prob.

    `generate` itself uses one random stream for the whole batch, so a sample would depend on its neighbors. Here
    the token is found by inverting the cumulative distribution at a number that depends only on the request's
    seed and the position; all other logits become -inf, and `generate` takes the argmax.

    Shapes: B sequences in the batch, T new tokens at most, V vocab entries.
    """

    def __init__(self, batch: list[_Pending], config: SamplingConfig, device: torch.device):
        longest = max(pending.max_tokens for pending in batch)
        draws = np.stack([_uniforms(pending.request.seed, len(pending.ids), longest) for pending in batch])
        self.uniforms = torch.from_numpy(draws).to(device)  # (B, T)
        self.config = config
        self.logprobs: list[Tensor] = []  # T tensors of (B,)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logprobs = torch.log_softmax(scores.float(), dim=-1)  # (B, V)
        if self.config.temperature == 0:
            chosen = logprobs.argmax(-1, keepdim=True)
        else:
            chosen = self._draw(torch.softmax(scores.double() / self.config.temperature, dim=-1))
        self.logprobs.append(logprobs.gather(-1, chosen)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen, 0.0)

    def _draw(self, probs: Tensor) -> Tensor:
        """(B, V) float64 probabilities -> (B, 1) tokens, from the uniform numbers of this position."""
        order = None
        if self.config.top_p < 1:
            probs, order = probs.sort(dim=-1, descending=True, stable=True)
            before = probs.cumsum(-1) - probs
            # The usual nucleus: the smallest set of tokens that reaches top_p, never empty.
            probs = probs.masked_fill(before >= self.config.top_p, 0.0)
        cumulative = probs.cumsum(-1)
        position = len(self.logprobs)
        target = self.uniforms[:, position : position + 1] * cumulative[:, -1:]  # below the total: uniforms < 1
        # The first token whose cumulative probability exceeds the target, which has a probability above zero.
        index = torch.searchsorted(cumulative, target, right=True)
        return index if order is None else order.gather(-1, index)


def _uniforms(seed: int, start: int, count: int) -> np.ndarray:
    """(count,) of a seed's random numbers, from number `start` on."""
    return np.random.Generator(np.random.Philox(seed)).random(start + count, np.float32)[start:]


class TransformersSampler:
    """Samples in batches of at most `max_batch` requests, one `generate` call each.

    A batch is the oldest request and those with the most similar prompt lengths, which keeps padding small, among
    the ones that are sampled alike (`SampleRequest.sampling`); with models whose samples depend on padding (some
    recurrent ones), among those with prompts of the same length.
    `autocast`: the dtype of matrix products, if it differs from that of the weights.
    """

    def __init__(
        self,
        model: Any,
        pad_id: int,
        config: SamplingConfig,
        max_batch: int,
        autocast: torch.dtype | None = None,
    ):
        self.model = model
        self.autocast = autocast
        self.pad_id = pad_id
        self.config = config
        self.max_batch = max_batch
        self._queue: list[_Pending] = []
        self._can_pad: bool | None = None  # unknown until a batch would be padded

    @classmethod
    def from_checkpoint(
        cls, model_path: str, config: SamplingConfig, *, max_batch: int, dtype: str = "auto"
    ) -> "TransformersSampler":
        tokenizer = load_tokenizer(model_path)
        pad_id = padding_id(model_path, tokenizer, config.eot_ids[0])
        return cls(load_model(model_path, dtype).eval(), pad_id, config, max_batch)

    @property
    def pending(self) -> int:
        return len(self._queue)

    def submit(self, key: Hashable, request: SampleRequest) -> None:
        self._queue.append(_Pending(key, request))

    def poll(self, enough: int | None = None) -> list[tuple[Hashable, Sample]]:
        """One batch. Its samples that have not ended when `enough` others have are continued by the next calls."""
        if not self._queue:
            return []
        oldest = self._queue[0].request
        lengths = [len(pending.prompt_ids) for pending in self._queue]
        alike = [i for i, pending in enumerate(self._queue) if pending.request.sampling == oldest.sampling]
        nearest = sorted(alike, key=lambda i: abs(lengths[i] - lengths[0]))
        if any(lengths[i] != lengths[0] for i in nearest[: self.max_batch]) and self._pads_not():
            nearest = [i for i in nearest if lengths[i] == lengths[0]]
        chosen = set(nearest[: self.max_batch])
        batch = [item for index, item in enumerate(self._queue) if index in chosen]
        rest = [item for index, item in enumerate(self._queue) if index not in chosen]
        before = {id(pending): len(pending.ids) for pending in batch}
        samples = self._generate(batch, enough)
        self._queue = [pending for pending, sample in zip(batch, samples, strict=True) if not sample] + rest
        ended = [(pending, sample) for pending, sample in zip(batch, samples, strict=True) if sample]
        ended.sort(key=lambda item: len(item[0].ids) - before[id(item[0])])  # the first to end first
        return [(pending.key, sample) for pending, sample in ended]

    def interrupt(self) -> list[tuple[Hashable, Sample]]:
        queue, self._queue = self._queue, []
        return [(pending.key, Sample(pending.ids, "interrupted", pending.logprobs)) for pending in queue]

    def metrics(self) -> dict[str, float]:
        """Nothing is measured."""
        return {}

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Nothing to do: the model is the one in training."""

    def sleep(self) -> None:
        """Nothing to do: the sampler holds no GPU memory besides the model."""

    def _pads_not(self) -> bool:
        """Whether batches must not be padded; printed when it turns out so."""
        if self._can_pad is None:
            was_training = self.model.training
            self.model.eval()
            with self._autocast():
                self._can_pad = ignores_padding(self.model, self.pad_id)
            self.model.train(was_training)
            if not self._can_pad:
                name = type(self.model).__name__
                print(f"sampling prompts of one length at a time: padding changes what {name} samples")
        return not self._can_pad

    @torch.no_grad()
    def _generate(self, batch: list[_Pending], enough: int | None) -> list[Sample | None]:
        """None for a sample that has not ended, because `enough` others had."""
        device = self.model.device
        prompt_ids = [pending.prompt_ids for pending in batch]
        width = max(map(len, prompt_ids))
        prompts = torch.full((len(batch), width), self.pad_id)
        mask = torch.zeros_like(prompts)
        for index, ids in enumerate(prompt_ids):
            prompts[index, width - len(ids) :] = torch.tensor(ids)
            mask[index, width - len(ids) :] = 1
        config = batch[0].request.sampling or self.config
        sampling = _SeededSampling(batch, config, device)
        stopping = StoppingCriteriaList()
        if enough is not None and enough < len(batch):
            stopping.append(_Enough(batch, enough, config.eot_ids, device))
        # Module by module: a model in training may have only some of its modules in training mode.
        modes = [(module, module.training) for module in self.model.modules()]
        own_config = self.model.generation_config
        self.model.eval()
        # The checkpoint's own defaults (a repetition penalty, suppressed tokens, ...) must not interfere.
        self.model.generation_config = GenerationConfig()
        try:
            with self._autocast():
                output = self.model.generate(
                    input_ids=prompts.to(device),
                    attention_mask=mask.to(device),
                    max_new_tokens=max(pending.max_tokens for pending in batch),
                    do_sample=False,
                    logits_processor=LogitsProcessorList([sampling]),
                    stopping_criteria=stopping,
                    eos_token_id=list(config.eot_ids),
                    pad_token_id=self.pad_id,
                )
        finally:
            self.model.generation_config = own_config
            for module, was_training in modes:
                module.training = was_training
        tokens = output[:, width:].tolist()
        logprobs = torch.stack(sampling.logprobs, dim=1).tolist()
        return [
            pending.extend(ids, values, config.eot_ids)
            for pending, ids, values in zip(batch, tokens, logprobs, strict=True)
        ]

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, self.autocast)

    def close(self) -> None:
        self._queue.clear()


@torch.no_grad()
def ignores_padding(model: Any, pad_id: int) -> bool:
    """Whether padding before a prompt leaves its next token's logits as they are, up to rounding."""
    ids = torch.randint(
        model.config.get_text_config().vocab_size, (1, 8), generator=torch.Generator().manual_seed(0)
    )
    padded = torch.cat([torch.full((1, 24), pad_id), ids], dim=1)
    mask = torch.cat([torch.zeros(1, 24, dtype=torch.long), torch.ones_like(ids)], dim=1)
    arguments = {"attention_mask": mask}
    if "position_ids" in inspect.signature(model.forward).parameters:  # as `generate` counts them
        arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    arguments = {name: x.to(model.device) for name, x in arguments.items()}
    expected = model(input_ids=ids.to(model.device), use_cache=False).logits[0, -1]
    actual = model(input_ids=padded.to(model.device), use_cache=False, **arguments).logits[0, -1]
    tolerance = 1e-3 if expected.dtype == torch.float32 else 0.1  # of the logits' standard deviation
    return bool((actual - expected).abs().max() < tolerance * expected.std())
