"""Model outputs on the page: self-revisions, and responses whose tokens are tinted by their KL."""

from typing import Any, NamedTuple, TypeVar

import numpy as np

from srt.report.html import Html, element, join

TINT_LEVELS = 10
MAX_TOKENS_SHOWN = 800  # per response
SCALE_QUANTILE = 0.99  # of the KL of the tokens shown, so that one outlier does not make all others pale
MIN_SCALE = 0.01  # nats; a KL far below this counts as agreement

Item = TypeVar("Item")

TINTS = "".join(
    f".k{level} {{ background: rgba(226, 88, 10, {0.07 * level:.2f}); }}" for level in range(1, TINT_LEVELS + 1)
)


def evenly_spaced(items: list[Item], count: int) -> list[Item]:
    """At most `count` of the items, evenly spaced over the list."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _label(name: str, correct: bool, extracted: str) -> Html:
    verdict = f"{'correct' if correct else 'wrong'}: {extracted or 'no answer'}"
    return element("p", f"{name}, ", element("span", verdict, class_=f"r{int(correct)}"), class_="label")


# Self-revisions -----------------------------------------------------------------------------------------


def revision_examples(tuples: list[dict[str, Any]], count: int) -> Html:
    """`count` tuples of d_revision.json for each reward of y_init."""
    chosen = [
        record
        for correct in (False, True)
        for record in evenly_spaced([t for t in tuples if t["y_init_correct"] == correct], count)
    ]
    return join(*map(_revision_example, chosen))


def _revision_example(record: dict[str, Any]) -> Html:
    first = element(
        "div",
        _label("y_init", record["y_init_correct"], record["y_init_extracted"]),
        element("div", record["y_init"], class_="text box", tabindex=0),
    )
    phrase = element("div", record["p_r"], class_="phrase")
    second = element(
        "div",
        _label("P_r and y_revised", record["y_revised_correct"], record["y_revised_extracted"]),
        element("div", phrase, element("div", record["y_revised"]), class_="text box", tabindex=0),
    )
    return element(
        "article",
        element("header", f"problem {record['id']}, answer {record['ground_truth']}"),
        element("div", record["x"], class_="text"),
        element("div", first, second, class_="pair"),
    )


# Per-token KL -------------------------------------------------------------------------------------------


def first_samples(samples: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first `count` logged responses with reward 0 and with reward 1, so that none is cherry-picked."""
    return [sample for r in (0, 1) for sample in [s for s in samples if s["r"] == r][:count]]


def kl_scale(samples: list[dict[str, Any]]) -> float:
    """The KL, in nats, at and above which a token has the strongest tint."""
    values = [value for sample in samples for value in sample["kl"]]
    return max(float(np.quantile(values, SCALE_QUANTILE)) if values else 0.0, MIN_SCALE)


class KLConcentration(NamedTuple):
    """How much of the KL of `responses` is on the tenth of the tokens with the highest KL."""

    responses: int
    kl_per_token: float  # nats
    top_tenth_share: float


def kl_concentration(samples: list[dict[str, Any]], r: int) -> KLConcentration | None:
    """Over all responses with reward r; None if there are none or their KL is zero."""
    responses = [sample["kl"] for sample in samples if sample["r"] == r]
    values = np.sort([max(value, 0.0) for kl in responses for value in kl])[::-1]
    if not values.sum():
        return None
    top_tenth = values[: max(1, len(values) // 10)]
    return KLConcentration(len(responses), float(values.mean()), float(top_tenth.sum() / values.sum()))


def tinted_response(sample: dict[str, Any], scale: float) -> Html:
    """A response as an article; a long one is cut to the window with the most KL."""
    tokens, kl = sample["tokens"], sample["kl"]
    start = max_kl_window(kl, MAX_TOKENS_SHOWN)
    shown = range(start, min(start + MAX_TOKENS_SHOWN, len(tokens)))
    pieces: list[object] = [f"[{start:,} tokens before]\n"] if start else []
    pieces += [_token(tokens[index], kl[index], scale) for index in shown]
    if shown.stop < len(tokens):
        pieces.append(f"\n[{len(tokens) - shown.stop:,} tokens after]")
    verdict = element("span", "correct" if sample["r"] else "wrong", class_=f"r{sample['r']}")
    mean = sum(kl) / max(len(kl), 1)
    return element(
        "article",
        element("header", verdict, f", problem {sample['id']}, step {sample['step']}, {mean:.4f} nats per token"),
        element("div", sample["x"], class_="text"),
        element("p", sample["p_r"], class_="phrase soft"),
        element("div", *pieces, class_="text box", tabindex=0),
    )


def max_kl_window(kl: list[float], length: int) -> int:
    """The start of the window of `length` tokens with the largest sum of KL."""
    if len(kl) <= length:
        return 0
    sums = np.concatenate([[0.0], np.cumsum(kl)])
    return int(np.argmax(sums[length:] - sums[:-length]))


def _token(token: str, kl: float, scale: float) -> object:
    level = min(round(TINT_LEVELS * kl / scale), TINT_LEVELS)
    if level < 1:
        return token
    # A line break alone would have no area to tint.
    return element("b", token.replace("\n", "\u21b5\n"), class_=f"k{level}", title=f"{kl:.3f}")


def scale_legend(scale: float) -> Html:
    swatches = element("span", *(element("i", class_=f"k{level}") for level in range(1, TINT_LEVELS + 1)))
    return element("div", "KL in nats: 0", swatches, f"{scale:.2g} and more", class_="scale")
