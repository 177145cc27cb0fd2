r"""Names on the left of an equation, names of sets, and declarations like k in Z."""

import re

from srt.verifiers.math.forms import NamedSet
from srt.verifiers.math.text import without_text

_NAME = (
    r"(?:\\(?:angle|triangle|overline|widehat|hat|bar|tilde|max|min|sup|inf|Delta|nabla|overrightarrow|det|deg)\s*)*"
    r"(?:\\(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|upsilon|phi|chi|"
    r"psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega|ell)(?![A-Za-z])|[A-Z]{1,6}|[a-z]|{[A-Za-z]{1,6}})"
    r"(?:_{[^{}]{1,20}}|'|\^{'+}|\^{-1}|\^{\*}|\\prime|\^{\\circ})*"
)
NAME = re.compile(
    rf"{_NAME}(?:\s*\([^()=<>]{{0,40}}\))?|\|\s*{_NAME}\s*\||\[\s*[A-Z]{{2,8}}\s*\]|\\frac{{{_NAME}}}{{{_NAME}}}|"
    rf"\\text{{[^{{}}]*[^{{}}\d\s][^{{}}]*}}(?:_{{[^{{}}]*}})?(?:\s*\([^()]*\))?|\(\s*{_NAME}(?:\s*[,;]\s*{_NAME})+\s*\)|"
    rf"\\(?:sin|cos|tan|cot|ln|log)\s*(?:\^{{-?\d}})?\s*{_NAME}|{_NAME}\s*:\s*{_NAME}|S_{{[^{{}}]*}}(?:\s*:\s*[A-Z](?:_{{[^{{}}]*}})?)?|"
    rf"\\frac{{d{_NAME}}}{{d{_NAME}}}|(?:Var|Cov|E|P|Area|Pr)\s*[(\[][^()=]*[)\]]|[A-Za-z]\s*[A-Z]{{2,4}}|[a-z]{{2,12}}(?=$)"
)
# Sets of numbers with a sign: the script behind the letter, and what it says.
_SCRIPTS = {
    **dict.fromkeys(("^{+}", "_{+}", "_{>0}"), "+"),
    **dict.fromkeys(("^{-}", "_{-}", "_{<0}"), "-"),
    **dict.fromkeys((r"_{\geq0}", "_{0}^{+}", "^{+}_{0}"), ">=0"),
    **dict.fromkeys(("^{*}", "_{*}", r"_{\neq0}", r"^{\times}"), "*"),
}
_NUMBERS = re.compile(r"\\math(?:bb|bf){([RZNQC])}((?:[_^]{[^{}]{1,6}}){0,2})")
_INTEGER_KINDS = {"Z": "Z", "Z+": "Z+", "Z>=0": "Z>=0", "N": "N"}
_INTEGER_WORDS = re.compile(
    r"^\\?(?:text{)?\s*\(?(?:where|for|with|for some|for any|for all|for every)?\s*(?:}|"
    r"\\text{)?\s*(?:some|any|all|every)?\s*(?:an?\s+)?(?:}\s*)?"
    r"(?:integers?\s*}?\s*([a-z])|([a-z])\s*(?:\\text{)?\s*(?:is|are|being)?\s*(?:an?|any)?\s*integers?)\s*}?\)?\s*}?$"
)
# What may open a declaration behind an answer, and the words of one.
_DECLARING = re.compile(r",?\s*(?:\\text{\s*,?\s*)?(?<![A-Za-z])(?:where|for|with)(?![A-Za-z])")
_WORDS_ON_INTEGERS = re.compile(
    r"(?:where|for|with)?\s?(?:some|any|all|every|each)?\s?(?:([a-zA-Z])\s?(?:is|are|being))?\s?(?:an?|any|some)?\s?"
    r"(positive|non-?negative|natural)?\s?(integers?|numbers?)\s?([a-zA-Z])?",
    re.IGNORECASE,
)
_FOR_ALL = re.compile(
    r"for (?:all|any|every|each) (?:(?:real|positive|negative|nonnegative|natural|rational) ?)*"
    r"(?:numbers?|integers?|reals?)? ?"
    r"([A-Za-z])(?: ?\\in .*)?"
)
_CONSTANT = re.compile(
    r"(?:where |for |with )?(?:some |any |every |all )?(?:([a-zA-Z]) (?:is|being) (?:an? |any )?)?"
    r"(?:arbitrary |real |fixed )*(?:constants?|(?<=real )numbers?)(?: ([a-zA-Z]))?",
    re.IGNORECASE,
)
_MEMBER = re.compile(
    r"^\(?\s*(?:\\text{\s*(?:where|for|with|for some|for all|for any)\s*}|for |where |"
    r"\\forall\s*)?\s*([A-Za-z](?:\s*,\s*[A-Za-z])*)\s*\\in\s*(.+?)\s*\)?$"
)
_TRAILING_MEMBER = re.compile(
    r"\s*\(\s*([A-Za-z])\s*\\in\s*([^()]+?)\s*\)$|\s*\\text{\s*(?:where|for|for some|for all|for any|"
    r"with)\s*}\s*([A-Za-z])\s*\\in\s*(.+)$"
)
_TRAILING_WORDS = re.compile(
    r"\s*\\text{\s*(?:,?\s*)(?:where|for|for any|for some|for all|with)\s+(?:an?\s+|any\s+|all\s+|"
    r"some\s+)?(?:integers?\s*)?([a-z])?(?:\s+(?:is\s+)?(?:an?\s+|any\s+)?integers?)?\s*}"
    r"\s*([a-z])?\s*(?:\\text{\s*(?:is\s+)?(?:an?\s+|any\s+)?integers?\s*})?$"
)


def without_trailing_member(text: str) -> tuple[str, frozenset[str]]:
    """Without a declaration at the end, and the integers that it declared."""
    declarations = [match.start() for match in _DECLARING.finditer(text) if match.start()]
    for start in declarations:  # f(x) = x + 1 for all x: nothing is declared
        left, _, right = text[:start].partition("=")
        if right and ((match := _FOR_ALL.fullmatch(_plain(text[start:]))) and _is_argument(match[1], left)):
            return text[:start].rstrip(" ,"), frozenset()
    if match := _TRAILING_MEMBER.search(text):
        if kind := _integer_kind(match[2] or match[4]):
            return text[: match.start()].rstrip(" ,"), frozenset({(match[1] or match[3]) + kind})
    if match := _TRAILING_WORDS.search(text):
        name = match[1] or match[2]
        if name and "integer" in match[0]:
            return text[: match.start()].rstrip(" ,"), frozenset({name + "Z"})
    for start in declarations:
        if declared := _declared_in_words(text[start:]):
            return text[:start].rstrip(" ,"), frozenset({declared})
        if "=" in text[:start] and declared_constants(text[start:]):
            return text[:start].rstrip(" ,"), frozenset()
    return text, frozenset()


def _is_argument(letter: str, left: str) -> bool:
    """x of f(x), n of a_n."""
    return re.search(rf"[(,]\s*{letter}\s*[,)]|_{{?{letter}}}?", left) is not None


def _plain(text: str) -> str:
    return " ".join(without_text(text).split()).strip(" ,.()")


def declared_constants(part: str) -> set[str]:
    r"""The c of c \in \mathbb{R} and of "where c is a constant": any number."""
    if match := _MEMBER.match(part.strip(" ,")):
        named = named_set_symbol(match[2])
        return {name.strip() for name in match[1].split(",")} if named and named.name in ("R", "C", "Q") else set()
    match = _CONSTANT.fullmatch(_plain(part))
    return {match[1] or match[2]} if match and (match[1] or match[2]) else set()


def declared_integers(part: str) -> set[str]:
    if match := _MEMBER.match(part):
        if kind := _integer_kind(match[2]):
            return {name.strip() + kind for name in match[1].split(",")}
    if match := _INTEGER_WORDS.match(part):
        return {(match[1] or match[2]) + "Z"}
    declared = _declared_in_words(part)
    return {declared} if declared else set()


def _integer_kind(text: str) -> str | None:
    if text.strip() in ("Z", "N"):
        return text.strip()
    named = named_set_symbol(text)
    return _INTEGER_KINDS.get(named.name) if named else None


def _declared_in_words(text: str) -> str | None:
    """kZ+ for "where k is a positive integer"."""
    match = _WORDS_ON_INTEGERS.fullmatch(_plain(text))
    if match is None or not (name := match[1] or match[4]) or (match[1] and match[4]):
        return None
    sign = (match[2] or "").replace("-", "").lower()
    if not sign and match[3].startswith("number"):
        return None
    return name + {"": "Z", "positive": "Z+", "nonnegative": "Z>=0", "natural": "N"}[sign]


def has_variables(text: str) -> bool:
    rest = re.sub(r"\\(?:text{[^{}]*}|[A-Za-z]+)", " ", text)
    greek = re.search(r"\\(?:alpha|beta|gamma|theta|lambda|mu|phi|rho|sigma|omega)(?![A-Za-z])", text)
    return bool(greek or re.search(r"[A-Za-z]", re.sub(r"(?<![A-Za-z])[ei](?![A-Za-z])", " ", rest)))


def is_evaluation(text: str) -> bool:
    """Whether a left side is something to be evaluated: a limit, an integral, a probability, not an equation."""
    return bool(re.search(r"\\(?:lim|int|sum|prod|iint|oint)(?![A-Za-z])|\\text{", text))


def normal_name(text: str) -> str:
    name = re.sub(r"\s|\\text|\\(?:overline|angle|triangle|mathrm)(?![A-Za-z])|[{}|]", "", text)
    return re.sub(r"^m(?=[A-Z]{2,})", "", name)


def named_set_symbol(text: str) -> NamedSet | None:
    bare = text.replace(" ", "").replace(r"\Bbb", r"\mathbb")
    if bare in (r"\emptyset", r"\{\}"):
        return NamedSet("empty")
    match = _NUMBERS.fullmatch(bare)
    if match is None:
        return None
    letter, script = match.groups()
    if not script:
        return NamedSet(letter)
    if letter == "N" and script == "_{0}":
        return NamedSet("Z>=0")
    if script not in _SCRIPTS:
        return None
    return NamedSet("Z+" if letter == "N" else letter + _SCRIPTS[script])
