"""Several sequences in one row without padding, and whether a model allows it: decided on the model itself.

Packing needs more than an attention that keeps sequences apart: recurrent and convolution layers pass on what they
remember, ALiBi and learned positions count from the start of the pass, and some families put windows into a mask
that packed attention does not use. There is no list of such families: two short sequences are packed, and compared
with the same two apart.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedConfig

from srt.common.attention import attention_calls
from srt.common.errors import UserError, reason_of
from srt.common.packed_attention import PACKED, try_kernel

PROBE_LENGTHS = (12, 20)  # tokens of the two sequences
TOLERANCE = 1e-3  # of the standard deviation of the logits, in fp32; rounding is below 1e-4


def packed_inputs(sequences: list[list[int]]) -> dict[str, Any]:
    """What a model is called with for sequences of ids in one row, on the CPU: (1, T), T all of their tokens.

    Positions start again with each sequence; `cu_seq_lens_q` and `_k` (N + 1,) are the starts of the N sequences,
    then T; `seq_idx` (1, T) is the sequence of each token, for layers of short convolutions.
    """
    lengths = torch.tensor([len(ids) for ids in sequences])
    boundaries = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(torch.int32)
    return {
        "input_ids": torch.tensor([[token for ids in sequences for token in ids]]),
        "position_ids": torch.cat([torch.arange(len(ids)) for ids in sequences])[None],
        "cu_seq_lens_q": boundaries,
        "cu_seq_lens_k": boundaries,
        "max_length_q": int(lengths.max()),
        "max_length_k": int(lengths.max()),
        "seq_idx": torch.arange(len(sequences), dtype=torch.int32).repeat_interleave(lengths)[None],
    }


def to_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: x.to(device) if torch.is_tensor(x) else x for name, x in inputs.items()}


def set_attention(model: Any, implementation: str) -> None:
    """Set an attention that the model is known to support, in each config that its modules read.

    transformers' `set_attn_implementation` reaches neither the configs that turn_off_dropout makes nor a model
    that FSDP2 has given another class.
    """
    for module in model.modules():
        if isinstance(config := getattr(module, "config", None), PreTrainedConfig):
            config._attn_implementation = implementation


@contextlib.contextmanager
def attention_for_packing(model: Any) -> Iterator[None]:
    """In the block, which must contain the backward pass too, the model takes packed sequences and no others."""
    own = model.config._attn_implementation
    set_attention(model, PACKED)
    try:
        yield
    finally:
        set_attention(model, own)


def why_not_packed(model: Any, longest: int, training: bool = False) -> str | None:
    """None if packed sequences give the logits that they give apart, else why not.

    `model`: as load_model returns it, in fp32; it is left as it was. `longest`: tokens of the longest sequence.
    `training`: in training mode, in which some families compute differently; dropout is then to be off.
    """
    name = type(model).__name__
    for entry, tokens in _masked_windows(model).items():
        if tokens < longest:
            return f"{name} keeps to {entry}={tokens} by a mask, and the longest sequence has {longest} tokens"
    try:
        difference = _packed_difference(model, training)
    except Exception as error:  # whatever it is, a training on packed sequences would end with it
        return f"{name} does not support packed sequences ({reason_of(error)})"
    if not difference < TOLERANCE:
        return (
            f"layers of {name} mix packed sequences: logits change by {difference:.2g} of their standard deviation"
        )
    return None


def why_not_in_kernel(model: Any, device: torch.device) -> str | None:
    """None if torch's variable-length kernel computes the model's attention on `device`, else why not.

    Kernels differ in the widths of heads, in windows, and in the GPUs that they were compiled for: each kind of a
    model's calls is tried, except those that the kernel is never asked for (capped scores, sinks).
    """
    kinds = {
        (call.query[1], call.key[1], (call.query[-1], call.key[-1], call.value[-1]))
        + (call.arguments.get("scaling"), call.arguments.get("sliding_window"))
        for call in attention_calls(model)
        if not call.arguments.get("softcap") and call.arguments.get("s_aux") is None
    }
    for heads, key_heads, widths, scaling, window in kinds:
        try:
            try_kernel(heads, key_heads, widths, device, scaling=scaling, sliding_window=window)
        except Exception as error:  # whatever it is, the first update would end with it
            name = type(model).__name__
            return f"torch's variable-length kernel refuses the attention of {name} ({reason_of(error)})"
    return None


def _masked_windows(model: Any) -> dict[str, int]:
    """The limits (entries of the config, in tokens) that the model sets to attention only by a mask.

    Packed attention has no masks. It heeds a sliding window that it is told, as it is by most families. The
    sequences of the probe are shorter than the windows of real models.
    """
    config, calls = model.config.get_text_config(), attention_calls(model)
    layers = set(getattr(config, "layer_types", None) or ("sliding_attention", "chunked_attention"))
    windows = {}
    for entry, layer in (("sliding_window", "sliding_attention"), ("attention_chunk_size", "chunked_attention")):
        tokens = getattr(config, entry, None)
        if calls and tokens and layer in layers and not any(call.arguments.get(entry) for call in calls):
            windows[entry] = tokens
    return windows


@torch.no_grad()
def _packed_difference(model: Any, training: bool) -> float:
    """The largest difference between the logits of two sequences packed and apart, relative to their spread."""
    generator = torch.Generator().manual_seed(0)
    vocab_size = model.config.get_text_config().vocab_size
    ids = [torch.randint(vocab_size, (1, length), generator=generator) for length in PROBE_LENGTHS]
    arguments = to_device(packed_inputs([i[0].tolist() for i in ids]), model.device)
    exact, was_training = model.config._attn_implementation, model.training
    model.train(training)
    try:
        apart = torch.cat([model(input_ids=i.to(model.device), use_cache=False).logits for i in ids], dim=1)
        model.set_attn_implementation(PACKED)
        if model.config._attn_implementation != PACKED:  # it would build a mask of all pairs of tokens
            raise UserError("it computes its attention itself")
        together = model(**arguments, use_cache=False).logits
    finally:
        model.set_attn_implementation(exact)
        model.train(was_training)
    return float((together - apart).abs().max() / apart.std())
