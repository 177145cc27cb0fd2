"""The paper's Figure 4: how the KL of a response is spread over its tokens, by rank, for r = 0 and r = 1."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from opsd.localize.records import ScoredResponse
from opsd.localize.token_kinds import CONTENT, KINDS, STYLE, token_kind

TOP = 20
MAX_RANKS = 2000


def mass_by_rank(
    responses: Sequence[ScoredResponse], r: int, eot_ids: Sequence[int] = ()
) -> dict[str, Any] | None:
    """Of the responses with reward r; None if there are none.

    `kl_by_rank`: the KL (nats) of a response's token of rank 1 (its highest), 2, ..., averaged over responses; a
    shorter response has none there. `top_share`: what the TOP tokens of a response hold of its KL, averaged over
    responses, and `uniform_share`: what they would hold of a flat KL. `kinds`: shares of tokens and of KL.
    """
    chosen = [response for response in responses if response.r == r]
    if not chosen:
        return None
    ordered = [np.sort(np.maximum(response.kl, 0.0))[::-1] for response in chosen]
    lengths = np.array([len(kl) for kl in ordered])
    by_rank = np.zeros(min(MAX_RANKS, lengths.max()))
    for kl in ordered:
        by_rank[: min(len(kl), len(by_rank))] += kl[: len(by_rank)]
    totals = np.array([kl.sum() for kl in ordered])
    tops = np.array([kl[:TOP].sum() for kl in ordered])
    tenths = np.array([kl[: max(1, len(kl) // 10)].sum() for kl in ordered])
    with_mass = totals > 0
    return {
        "responses": len(chosen),
        "tokens": int(lengths.sum()),
        "kl_per_token": float(totals.sum() / lengths.sum()),
        "kl_per_response": float(totals.mean()),
        "top_share": _mean(tops[with_mass] / totals[with_mass]),
        "uniform_share": float(np.mean(np.minimum(TOP, lengths) / lengths)),
        "top_tenth_share": _mean(tenths[with_mass] / totals[with_mass]),
        "kl_by_rank": (by_rank / len(chosen)).tolist(),
        "kinds": kind_shares(chosen, eot_ids),
    }


def kind_shares(responses: Sequence[ScoredResponse], eot_ids: Sequence[int]) -> dict[str, dict[str, float]]:
    """Kind of token -> its share of the tokens and of the KL, and its KL per token; also for all of `style` and of
    `content`."""
    tokens: dict[str, int] = dict.fromkeys(KINDS, 0)
    kl: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    for response in responses:
        for index, text, value in zip(response.ids, response.tokens, response.kl, strict=True):
            kind = token_kind(text, index in eot_ids)
            tokens[kind] += 1
            kl[kind] += max(value, 0.0)
    groups = {kind: (kind,) for kind in KINDS} | {"style": STYLE, "content": CONTENT}
    all_tokens, all_kl = sum(tokens.values()), sum(kl.values())
    shares = {}
    for name, members in groups.items():
        count, mass = sum(tokens[kind] for kind in members), sum(kl[kind] for kind in members)
        shares[name] = {
            "tokens": count / all_tokens,
            "kl": mass / all_kl if all_kl else 0.0,
            "kl_per_token": mass / count if count else 0.0,
        }
    return shares


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
