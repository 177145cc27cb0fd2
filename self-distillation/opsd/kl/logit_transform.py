"""What some models do to their logits after the LM head: scale them (Granite, Cohere), soft-cap them (Gemma 2)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LogitTransform:
    """z -> scale * z, or with a cap z -> cap * tanh(scale * z / cap), for every logit alike."""

    scale: float = 1.0
    cap: float | None = None

    def apply_(self, logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """In place."""
        if self.cap is not None:
            return logits.mul_(self.scale / self.cap).tanh_().mul_(self.cap)
        return logits if self.scale == 1.0 else logits.mul_(self.scale)

    def derivative(self, transformed: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """d transformed / d logits, from the transformed logits; of their own memory. Only with a cap: without
        one it is `scale`."""
        if self.cap is None:
            raise ValueError("the derivative of a transform without a cap is its scale")
        saturation = transformed / self.cap
        return saturation.square_().neg_().add_(1.0).mul_(self.scale)


IDENTITY = LogitTransform()


def apply(transform: LogitTransform, logits: Tensor) -> Tensor:
    """The transformed logits, of their own memory and differentiable."""
    scaled = logits * transform.scale
    return scaled if transform.cap is None else transform.cap * torch.tanh(scaled / transform.cap)
