"""vLLM's part of a memory plan: the weights of an engine, and the KV cache in what is left of its share."""

from srt.common.memory_plan import GIB, PROCESS, ModelShape, Terms

WEIGHTS, CACHE = "sampler's weights", "KV cache"


def cache_bytes_per_token(shape: ModelShape, number_bytes: int = 2) -> int:
    """Key and value of every layer. Layers with a sliding window need less than this of a long sequence."""
    return 2 * shape.layers * shape.keys * number_bytes


def share_terms(
    shape: ModelShape, share: int, longest: int, tensor_parallel: int = 1, number_bytes: int = 2
) -> Terms:
    """An engine's share of a GPU: its weights, and the KV cache, together with vLLM's buffers (1 to 3 GiB).

    The cache must hold a sequence of `longest` tokens, whatever the share.
    """
    weights = number_bytes * shape.parameters // tensor_parallel
    one = cache_bytes_per_token(shape, number_bytes) * longest // tensor_parallel
    return {WEIGHTS: weights, CACHE: max(one, share - weights)}


def describe_cache(shape: ModelShape, terms: Terms, tensor_parallel: int, tokens: int) -> str:
    """How much the KV cache of an engine holds. `tokens`: of the longest sequence."""
    in_cache = terms[CACHE] * tensor_parallel // cache_bytes_per_token(shape)
    return (
        f"KV cache of an engine: about {in_cache:,} tokens ({terms[CACHE] / GIB:.1f} GiB on each of its GPUs), "
        f"{in_cache / tokens:,.1f} sequences of {tokens:,} tokens at a time"
    )


def collection_terms(
    shape: ModelShape, *, share: int, longest: int, tensor_parallel: int, processes: int, number_bytes: int = 2
) -> tuple[dict[str, Terms], Terms]:
    """GPU and host terms of collection and evaluation with vLLM. `share`: of a GPU, in bytes; `longest`: sequence,
    in tokens; `processes`: GPUs in use on a machine, each with a process of vLLM."""
    sampling = share_terms(shape, share, longest, tensor_parallel, number_bytes)
    return {"sampling": sampling}, {"processes": (processes + 1) * PROCESS}
