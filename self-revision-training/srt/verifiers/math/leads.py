r"""What stands before an answer: choice labels and words like "the answer is"."""

import re

from srt.verifiers.math.text import clean

_LABEL = re.compile(r"^(?:\\text\s*{\s*\(?[A-J]\)?[.:]?\s*}|\([A-J]\))\s*(?=[^\s=,+\-*/^_)])")
_LEAD = re.compile(r"^\\text{([^{}]*)}\s*:?\s*(?=\S)")
_LEAD_WORDS = re.compile(
    r"(?:(?:so|thus|hence|therefore|then)\W+)?(?:the\s+)?(?:(?:\w+\s+){0,4}(?:is|are|equals|was|were|be)|[\w\s]+:)\W*"
    r"(?:about|approximately|exactly|equal to)?\W*",
    re.IGNORECASE,
)
_PLAIN_LEAD = re.compile(
    r"^(?:the\s+)?(?:final\s+)?(?:answer|solution|result|total|answers|solutions)s?\s*(?:is|are|:)\s*:?\s*(?=\S)",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"^(?:\\approx|\\text{\s*(?:about|approximately|approx\.?|exactly|around)\s*}|about |approximately |=)\s*"
)
_DELIMITED = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_AROUND = re.compile(r"[A-Za-z ,.:;'\n]*")
_DENIAL = re.compile(r"\b(?:not|no|or|and|except|if|than|without)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"^(?:[A-Z][A-Za-z]*|[a-z]{3,})[A-Za-z ,:]*?\b(?:is|are|equals)\s+(?=[-+\d\\(])")
_CJK_LEAD = re.compile(
    r"^[\u4e00-\u9fff]*(?:答案|结果|值|共)?(?:(?:是|为|等于|有|共)\s*:?|:)\s*(?=[^\u4e00-\u9fff\s])"
)
# What stands before a condition: 2^k where k > 1; all integers n > 1.
_WHERE = re.compile(
    r",?\s?\\text{\s?,?\s?(?:where|with|for(?: all| any| every)?)\s?}\s?(?=[A-Za-z]\s?(?:[<>]|\\[gln]eq))"
)
_ALL = re.compile(
    r"^(?:\\text{\s?)?(?:for )?(?:[Aa]ll|[Aa]ny|[Ee]very)(?: (?:positive |natural )?(?:integer|number)s?)?\s?}?\s?"
    r"(?=[a-z]\s?(?:[<>]|\\[gln]eq))"
)


def formula_among_words(text: str) -> str:
    """Therefore $x > 5$ is the solution. -> x > 5; also in \\( \\) and \\[ \\]."""
    found = _DELIMITED.findall(text)
    if len(found) != 1:
        return text
    around = _DELIMITED.sub(" ", text)
    if not _AROUND.fullmatch(around) or _DENIAL.search(around) or not re.search(r"[A-Za-z]{4}", around):
        return text
    return next(group for group in found[0] if group)


def without_lead(text: str) -> str:
    """Without a label, and without words that lead to the answer or to a condition: the total is 12."""
    text = _CJK_LEAD.sub("", _LABEL.sub("", text)).replace("等于", "=")
    if re.fullmatch(r"\\text{[^{}]*\d[^{}]*}", text):
        text = clean(text[6:-1])
    for _ in range(2):
        text = _ABOUT.sub("", text)
        lead = _LEAD.match(text)
        if lead and _LEAD_WORDS.fullmatch(lead[1].strip() + " ") and not re.search(r"\b(?:not|no)\b", lead[1]):
            text = text[lead.end() :]
        text = _PLAIN_LEAD.sub("", text)
        lead = _SENTENCE_END.match(text)
        if lead and not _DENIAL.search(lead[0]):
            text = text[lead.end() :]
    return _WHERE.sub(", ", _ALL.sub("", text.strip()))
