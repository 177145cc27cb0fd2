r"""Answers in words: which texts are words, which words denote sets and numbers, and when words are the same."""

import re

from srt.verifiers.math.text import without_text

_SETS = {
    "empty": "empty set|the empty set|no solution|no solutions|no real solution|no real solutions|"
    "there is no solution|"
    "there are no solutions|no real roots|has no solution|there are no real solutions|无解|空集|无实数解|"
    "none exist|"
    "no solution exists|no solutions exist|no such number|no such numbers",
    "R": "all real numbers|all reals|all real number|the set of all real numbers|the set of real "
    "numbers|any real number|"
    "real numbers|all real values|the real numbers|all numbers|全体实数|任意实数|一切实数|reals|all real x|"
    "every real number",
    "Z": "all integers|integers|the integers|any integer|the set of integers|the set of all "
    "integers|全体整数|every integer",
    "N": "all natural numbers|natural numbers|the natural numbers|any natural number|全体自然数",
    "Z+": "all positive integers|positive integers|the positive integers|any positive integer|every "
    "positive integer",
    "R+": "all positive real numbers|positive real numbers|all positive reals|positive reals|全体正实数",
    "R-": "all negative real numbers|negative real numbers|all negative reals",
    "R>=0": "all nonnegative real numbers|nonnegative real numbers|all non-negative real numbers",
    "R*": "all nonzero real numbers|all non-zero real numbers|nonzero real numbers|all nonzero reals",
    "Q": "all rational numbers|rational numbers|the rational numbers|rationals",
    "C": "all complex numbers|complex numbers|the complex numbers",
}
SETS = {phrase: name for name, phrases in _SETS.items() for phrase in phrases.split("|")}
_SYNONYMS = {
    "dne": "does not exist",
    "doesn't exist": "does not exist",
    "limit does not exist": "does not exist",
    "the limit does not exist": "does not exist",
    "isn't defined": "undefined",
    "not defined": "undefined",
    "diverge": "diverges",
    "divergent": "diverges",
    "the series diverges": "diverges",
    "convergent": "converges",
    "correct": "true",
    "right": "true",
    "incorrect": "false",
    "wrong": "false",
    "y": "yes",
    "是": "yes",
    "否": "no",
    "正确": "true",
    "错误": "false",
}
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBERS = {word: number for number, word in enumerate(_ONES)}
NUMBERS |= {word: 20 + 10 * index for index, word in enumerate(_TENS)}
NUMBERS |= {
    f"{ten} {one}": 20 + 10 * t + o for t, ten in enumerate(_TENS) for o, one in enumerate(_ONES[:10]) if o
}
NUMBERS |= {"hundred": 100, "one hundred": 100, "one thousand": 1000, "thousand": 1000}

# What formulas are written with, and so no words.
_FORMULA_WORDS = frozenset(
    "sin cos tan cot sec csc log ln lg exp arcsin arccos arctan sinh cosh tanh max min gcd lcm mod det".split()
)
_ONLY_WORDS = re.compile(
    r"[A-Za-z\u00c0-\u024f\u4e00-\u9fff①-⑩][A-Za-z\u00c0-\u024f\u4e00-\u9fff①-⑩'’\-.,;:!? ()/&]*"
)
_VOWEL = re.compile(r"[aeiouyAEIOUY]")
ROMAN = re.compile(r"[IVXLC]{2,8}|[ivx]{2,6}")
_CJK = re.compile(r"[\u4e00-\u9fff]")
# The series converges, it is true: of these the verb is the answer.
_SUBJECT = re.compile(
    r"^(?:it|this|(?:the |this )?(?:improper )?(?:series|sequence|integral|limit|sum|statement|claim)) (?:is )?"
    r"(?=(?:converges|diverges|convergent|divergent|does not exist|exists|undefined|true|false|(?:in)?correct)$)"
)
_FILLING = re.compile(
    r"^(?:the answer is|it is|they are|answer)(?![a-z])|(?<![a-z])(?:the|an|a(?= (?!and |or )\w{2}))(?![a-z])"
)


def is_words(text: str) -> bool:
    r"""Whether a cleaned text is words rather than a formula: \text{...} with letters, or a word with a vowel.

    >>> is_words("listen"), is_words(r"\text{no}"), is_words("xyz"), is_words("2ab"), is_words(r"\sin x")
    (True, True, False, False, False)
    """
    if re.fullmatch(r"\\text{[^{}]*}(?:\s*\.)?", text) and re.search(r"[^\W\d_]", text[6:]):
        inside = text[6 : text.rindex("}")].strip()
        return bool(_ONLY_WORDS.fullmatch(inside)) and (len(inside) > 1 or not inside.isascii())
    if ROMAN.fullmatch(text):
        return True
    bare = without_text(text).strip() if "\\text" in text else text
    if not _ONLY_WORDS.fullmatch(bare) or bare.endswith((",", "(")):
        return False
    tokens = re.findall(r"[A-Za-z\u00c0-\u024f]+", bare)
    if _CJK.search(bare):
        return not any(len(token) == 1 for token in tokens)
    long = [
        token
        for token in tokens
        if len(token) >= 3 and _VOWEL.search(token) or token.lower() in ("no", "yes", "dne")
    ]
    if any(token in _FORMULA_WORDS for token in tokens) and "text" not in text:
        return False
    if len(tokens) == 1:
        token = tokens[0]
        return bool(long) and (
            len(token) >= 4
            or token.lower()
            in (
                "yes",
                "no",
                "dne",
                "odd",
                "red",
                "all",
                "one",
                "two",
                "six",
                "ten",
                "sat",
                "sun",
                "mon",
                "max",
                "tom",
            )
        )
    return len(long) * 2 >= len(tokens) or "\\text" in text and bool(long)


def normal_words(text: str) -> str:
    r"""Lower case, without \text{}, punctuation and fillers.

    >>> normal_words(r"\text{The United States of America.}") == normal_words("United States of America")
    True
    """
    text = without_text(text).lower()
    text = re.sub(r"[-‐/_]", " ", text)
    text = re.sub(r"[^\w\s①-⑩']|_", " ", text)
    text = " ".join(text.split())
    text = _SUBJECT.sub("", text)
    text = _SYNONYMS.get(text, text)
    shorter = " ".join(_FILLING.sub(" ", text).split())
    return shorter or text


def is_negative(text: str) -> bool:
    """-XIV, -seven: a sign, where "- seven" is an item of a list."""
    return re.match(r"\s*(?:\\text{\s*)?-(?:\\text{\s*)?[^\W_]", text) is not None


def same_words(gold: str, answer: str) -> bool:
    if is_negative(gold) != is_negative(answer):
        return False
    first, second = normal_words(gold), normal_words(answer)
    if first == second or first.replace(" ", "") == second.replace(" ", ""):
        return True
    # yes: "Yes, because ..." says yes
    return (
        first in ("yes", "no", "true", "false")
        and re.match(r"(?:yes|no|true|false)(?!\w)", second) is not None
        and (
            second.split()[0] == first
            and not {"yes", "no", "true", "false", "or", "maybe"} & set(second.split()[1:])
        )
    )


def named_set(text: str) -> str | None:
    r"""The set that words denote: "all real numbers" is R, "no solution" the empty set."""
    phrase = " ".join(without_text(text).lower().replace(".", " ").split())
    return SETS.get(phrase)


def number_word(text: str) -> int | None:
    phrase = " ".join(re.sub(r"(?<=\w)-", " ", without_text(text).lower()).split())
    sign = re.match(r"-|minus |negative ", phrase)
    number = NUMBERS.get(phrase[sign.end() :] if sign else phrase)
    return -number if sign and number is not None else number
