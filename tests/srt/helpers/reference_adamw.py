"""AdamW, clipping and schedules as the papers write them, in float64: what trained weights are compared with."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Loss = Callable[[Any], Tensor]  # of a model, for one update


@dataclass(frozen=True)
class ReferenceAdamW:
    """rates: the learning rate of each update. max_norm: of the whole gradient, which is scaled down to it."""

    rates: tuple[float, ...]
    beta1: float
    beta2: float
    weight_decay: float
    max_norm: float
    eps: float = 1e-8
    decays_vectors: bool = False

    def train(self, model: Any, losses: list[Loss], norms: list[float] | None = None) -> Weights:
        """One update for each loss; `model`, in float64, is changed. The trained weights by name.

        norms: gets the norm of each gradient, before it is clipped.
        """
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        second = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for number, (loss, rate) in enumerate(zip(losses, self.rates, strict=True), start=1):
            model.zero_grad()
            loss(model).backward()
            norm = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters.values()))
            if norms is not None:
                norms.append(norm)
            for name, p in parameters.items():
                gradient = p.grad * min(1.0, self.max_norm / norm)
                first[name] = self.beta1 * first[name] + (1 - self.beta1) * gradient
                second[name] = self.beta2 * second[name] + (1 - self.beta2) * gradient**2
                mean = first[name] / (1 - self.beta1**number)
                spread = (second[name] / (1 - self.beta2**number)).sqrt()
                decay = self.weight_decay if self.decays_vectors or p.ndim >= 2 else 0.0
                p.data = p.data - rate * decay * p.data - rate * mean / (spread + self.eps)
        return {name: p.detach().clone() for name, p in parameters.items()}


# Non-default values, with which every setting leaves its mark on three updates: warm-up of one update, then cosine
# decay to 0 at the fourth.
PEAK = 4e-3
SETTINGS = ReferenceAdamW(
    rates=(PEAK / 2, PEAK, 0.75 * PEAK), beta1=0.6, beta2=0.7, weight_decay=8.0, max_norm=0.05
)
KNOBS = {
    "lr_schedule": "cosine",
    "weight_decay": SETTINGS.weight_decay,
    "adam_beta1": SETTINGS.beta1,
    "adam_beta2": SETTINGS.beta2,
    "max_grad_norm": SETTINGS.max_norm,
}
TOTAL_UPDATES = 4  # of which the tests make three
WRONG = {
    "another peak": replace(SETTINGS, rates=tuple(1.2 * rate for rate in SETTINGS.rates)),
    "no warm-up": replace(SETTINGS, rates=(PEAK, PEAK, PEAK * (1 + math.cos(math.pi / 4)) / 2)),
    "linear decay": replace(SETTINGS, rates=(PEAK / 2, PEAK, PEAK * 2 / 3)),
    "the default beta1": replace(SETTINGS, beta1=0.9),
    "beta2 as beta1": replace(SETTINGS, beta2=SETTINGS.beta1),
    "the default beta2": replace(SETTINGS, beta2=0.95),
    "no weight decay": replace(SETTINGS, weight_decay=0.0),
    "weight decay of vectors": replace(SETTINGS, decays_vectors=True),
    "no clipping": replace(SETTINGS, max_norm=math.inf),
    "another eps": replace(SETTINGS, eps=1e-5),
}


def assert_trained_with_settings(
    actual: Weights, model: Callable[[], Any], losses: list[Loss], wrong: dict[str, ReferenceAdamW] = WRONG
) -> None:
    """`actual` are the weights that SETTINGS give, and not those that any of `wrong` gives.

    model: a new copy of the model as it was before, in float64. wrong: {} saves the time of training it that
    often, where it is enough that another backend's test can tell them.
    """
    before = {name: p.detach().clone() for name, p in model().named_parameters()}
    expected = SETTINGS.train(model(), losses)
    error = difference(actual, expected, before)
    assert error < TOLERANCE, f"not the reference's weights: {error:.2g}"
    for name, settings in wrong.items():
        error = difference(actual, settings.train(model(), losses), before)
        assert error > 2 * TOLERANCE, f"the test could not tell {name}: {error:.2g}"


TOLERANCE = 2e-3


def difference(actual: Weights, expected: Weights, before: Weights) -> float:
    """The largest, over the tensors, of ||actual - expected|| / ||expected - before||."""
    assert actual.keys() == expected.keys()
    return max(
        float((actual[name].double() - weight).norm() / (weight - before[name]).norm())
        for name, weight in expected.items()
    )
