"""Gold answers: which ones can be compared at all. Checked once, when the dataset is loaded."""

import re
import time

from srt.verifiers.math.text import clean, without_text

# What datasets put in place of an answer; "proof" and "notfound" are those of NuminaMath 1.5 and OpenR1-Math.
PLACEHOLDERS = frozenset(
    "n/a|na|n.a|unknown|?|??|???|-|--|---|...|null|nan|tbd|todo|unanswered|missing|see solution|see the solution|"
    "see above|not available|no answer|not given|not provided|no answer provided|answer not found|proof|notfound|"
    "not found|to be determined".split("|")
)
MAX_WORDS = 12  # of an answer in words; a longer one no response repeats
MAX_WORDS_OF_SENTENCE = 5  # with a word that belongs to a solution, like "because"
MAX_WORDS_BESIDE_FORMULAS = 2  # "We have $2x=8$, so $x=4$." is a solution
_FORMULA = re.compile(r"\$[^$]*\$|\\\(.{0,300}?\\\)")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}(?![A-Za-z])")
_SENTENCE = re.compile(
    r"(?<![A-Za-z])(?:[Ww]e|[Ss]ince|[Hh]ence|[Tt]hus|[Tt]herefore|[Ll]et|[Ss]uppose|because|so|then|have|has|get|gives?|"
    r"follows|implies|obtain|[Nn]ote|[Cc]onsider)(?![A-Za-z])"
)
_PLAIN = re.compile(r"-?\d{1,30}(?:\.\d{1,30})?")
# What the parser is known to read, given balanced brackets; anything else is parsed to find out.
_COMMON_COMMANDS = frozenset(
    "frac sqrt pi cdot times left right leq geq le ge infty cup in neq pm ln log sin cos tan alpha "
    "beta theta lambda "
    "dfrac tfrac quad mathbb binom".split()
)
_COMMON = re.compile(r"[0-9A-Za-z+\-=<>(){}\[\],.^_/$ ]*")
_COMMAND = re.compile(r"\\([A-Za-z]+|[,;!{} ])")
_TWO_OPERATORS = re.compile(r"[+\-*/=^_]\s*(?:[*/=^_)\]}]|$)|[A-Za-z]{3}")


class GoldChecker:
    r"""Checks gold answers within a bound of parsing time; beyond it, they are parsed when first compared.

    >>> GoldChecker().problem("We have $2x=8$, so $x=4$.")
    'prose in place of an answer'
    >>> GoldChecker().problem("N/A"), GoldChecker().problem(r"\frac{1}{2}")
    ('a placeholder in place of an answer', None)
    """

    def __init__(self, max_parsing_seconds: float = 60.0):
        self.parsing_seconds_left = max_parsing_seconds

    def check(self, gold: str) -> None:
        """Raises ValueError with the reason when a gold answer cannot be compared."""
        if reason := self.problem(gold):
            raise ValueError(f"{reason}: {gold[:80]!r}")

    def problem(self, gold: str) -> str | None:
        """Why a gold answer cannot be compared, in a few words; None when it can.

        Plain numbers, which most gold answers are, cost a microsecond, ordinary formulas a few; only unusual ones
        are parsed.
        """
        gold = gold.strip()
        if _PLAIN.fullmatch(gold):
            return None
        if not gold:
            return "an empty answer"
        if gold.lower() in PLACEHOLDERS or gold.lower().rstrip(".") in PLACEHOLDERS:
            return "a placeholder in place of an answer"
        if is_prose(gold):
            return "prose in place of an answer"
        if is_ordinary(gold) or self.parsing_seconds_left <= 0:
            return None
        from srt.verifiers.math.verify import unreadable_gold  # imports sympy

        start = time.perf_counter()
        reason = unreadable_gold(gold)
        self.parsing_seconds_left -= time.perf_counter() - start
        return reason and f"an answer that the verifier cannot read, {reason}"


def is_ordinary(gold: str) -> bool:
    """Whether a gold answer is surely readable: short, balanced, of common symbols and commands."""
    if len(gold) > 100:
        return False
    commands = _COMMAND.findall(gold)
    if any(len(command) > 1 and command not in _COMMON_COMMANDS for command in commands):
        return False
    bare = _COMMAND.sub(" 1 ", gold)
    if "{0}" in gold:  # possibly a denominator
        return False
    balanced = gold.count("{") == gold.count("}") and sum(map(gold.count, "([")) == sum(map(gold.count, ")]"))
    return balanced and bool(_COMMON.fullmatch(bare)) and not _TWO_OPERATORS.search(bare)


def is_prose(gold: str) -> bool:
    """Whether a text is a solution or a sentence rather than an answer."""
    if len(gold) > 2_000:
        return True
    if len(_WORD.findall(gold)) <= MAX_WORDS_BESIDE_FORMULAS:
        return False
    formulas = len(_FORMULA.findall(gold))
    outside = _FORMULA.sub(" ", gold)
    words = _WORD.findall(without_text(clean(outside)))
    if len(words) > MAX_WORDS:
        return True
    if _SENTENCE.search(outside) and len(words) > MAX_WORDS_BESIDE_FORMULAS:
        if formulas or "=" in gold or len(words) > MAX_WORDS_OF_SENTENCE:
            return True
    return formulas >= 2 and len(words) > MAX_WORDS_BESIDE_FORMULAS and bool(re.search(r"[.!]\s*$", gold))
