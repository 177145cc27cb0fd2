"""Which attention a model needs: what it asks of its attention function, and the fastest one that does all of it.

transformers gives every model that supports it torch's SDPA, which ignores a soft cap on the attention scores
(Gemma 2) and attention sinks: log-probs were off by up to 2 nats, without a word. The model itself is asked, in a
forward pass over two tokens, because attribute names differ between families and most that carry such an attribute
do not use it.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

# Arguments that change the attention scores before the softmax.
SCORE_CHANGES = ("softcap", "s_aux", "position_bias")
RECORDING = "recording"  # name under which transformers knows _Recorder


class AttentionCall(NamedTuple):
    """`arguments`: by keyword; the shapes of query (1, heads, L, D), key and value (1, key heads, L, D)."""

    arguments: dict[str, Any]
    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]


_CALLS: WeakKeyDictionary[Any, list[AttentionCall]] = WeakKeyDictionary()  # of the models that were asked


class _Recorder:
    """SDPA that notes its arguments; its results are only good enough to get to the next layer."""

    def __init__(self) -> None:
        self.calls: list[AttentionCall] = []

    def __call__(
        self, module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, **kwargs: Any
    ) -> Any:
        self.calls.append(AttentionCall(kwargs, tuple(query.shape), tuple(key.shape), tuple(value.shape)))
        return sdpa_attention_forward(module, query, key, value, None, scaling=kwargs.get("scaling"))


def attention_calls(model: Any) -> list[AttentionCall]:
    """The attention calls of a forward pass, for which each model is run once.

    Empty for models without attention, and for those whose modules compute it themselves instead of calling the
    function that is set.
    """
    if model not in _CALLS:
        _CALLS[model] = _recorded_calls(model)
    return _CALLS[model]


@torch.no_grad()
def _recorded_calls(model: Any) -> list[AttentionCall]:
    own, recorder = model.config._attn_implementation, _Recorder()
    AttentionInterface.register(RECORDING, recorder)
    try:
        model.set_attn_implementation(RECORDING)
        if model.config._attn_implementation == RECORDING:
            model(input_ids=torch.tensor([[0, 1]], device=model.device), use_cache=False)
    finally:
        model.set_attn_implementation(own)
    return recorder.calls


def score_changes(model: Any) -> set[str]:
    """Those of SCORE_CHANGES that the model asks its attention for."""
    calls = attention_calls(model)
    return {name for name in SCORE_CHANGES for call in calls if call.arguments.get(name) is not None}


def use_exact_attention(model: Any) -> None:
    """Replace SDPA by the model's own attention where SDPA would ignore something, and say so."""
    if model.config._attn_implementation != "sdpa":
        return
    if ignored := ignored_by(sdpa_attention_forward, score_changes(model)):
        model.set_attn_implementation("eager")
        print(
            f"attention: eager, because torch's SDPA ignores {', '.join(ignored)} of {type(model).__name__}; it "
            "is slower, and its memory grows with the square of the length"
        )


def ignored_by(attention: Callable[..., Any], changes: set[str]) -> list[str]:
    """Those of `changes` that are not among the parameters of an attention function."""
    return sorted(changes - set(inspect.signature(attention).parameters))
