r"""Groups, rings and fields: products of cyclic groups up to isomorphism, anything else by its text."""

import re
from collections import Counter

from srt.verifiers.math.forms import Answer, Expression, Group, Structure
from srt.verifiers.math.split import is_enclosed, split_top
from srt.verifiers.math.text import key

_CYCLIC = re.compile(r"(?:\\mathbb{Z}|[CZ](?=_))(?:_{?(\d{1,9})}?|/\(?(\d{1,9})\)?(?:\\mathbb{Z})?)?")
_QUOTIENT = re.compile(r"\\mathbb{Z}\s?/\s?([a-z])\s?\\mathbb{Z}")  # \mathbb{Z}/p\mathbb{Z} as \mathbb{Z}_{p}
_POWER = re.compile(r"(.+)\^{(\d{1,2})}")


def read_structure(text: str) -> Answer | None:
    r"""\mathbb{Z}_2 \times \mathbb{Z}_4, \mathbb{Q}(\sqrt{2}); None for what is no structure."""
    if r"\mathbb" not in text:
        return None
    return _read_group(text) or Structure(_QUOTIENT.sub(r"\\mathbb{Z}_{\1}", text).replace(r"\oplus", r"\times"))


def _read_group(text: str) -> Group | None:
    group = _group(text)
    return None if group is None else Group(group[0], tuple(sorted(group[1].elements())))


def _group(text: str) -> tuple[int, Counter] | None:
    """(rank, orders of the cyclic factors, which are prime powers)."""
    while is_enclosed(text, "(", ")"):
        text = text[1:-1].strip()
    parts, found = split_top(text, (r"\times", r"\oplus"))
    if found:
        rank, orders = 0, Counter()
        for part in parts:
            group = _group(part)
            if group is None:
                return None
            rank, orders = rank + group[0], orders + group[1]
        return rank, orders
    if match := _POWER.fullmatch(text):
        group = _group(match[1])
        return None if group is None else (group[0] * int(match[2]), _times(group[1], int(match[2])))
    match = _CYCLIC.fullmatch(text.replace(" ", ""))
    if match is None:
        return None
    order = int(match[1] or match[2] or 0)
    return (1, Counter()) if order == 0 else (0, _prime_powers(order))


def _times(orders: Counter, times: int) -> Counter:
    return Counter({order: number * times for order, number in orders.items()})


def _prime_powers(order: int) -> Counter:
    """12 -> 4, 3: the cyclic group of order 12 is the product of these."""
    found, prime = Counter(), 2
    while order > 1:
        if prime * prime > order:
            prime = order
        power = 1
        while order % prime == 0:
            order, power = order // prime, power * prime
        if power > 1:
            found[power] += 1
        prime += 1
    return found


def same_structure(gold: Answer, answer: Answer) -> bool:
    return isinstance(gold, Structure) and isinstance(answer, Structure) and key(gold.text) == key(answer.text)


def same_group(gold: Answer, answer: Answer) -> bool:
    return _as_group(gold) == _as_group(answer)


def _as_group(answer: Answer) -> Answer | None:
    return _read_group(answer.text) if isinstance(answer, Expression) else answer  # C_{12}, beside a group
