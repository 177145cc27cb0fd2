r"""Names on the left of an equation, names of sets, and declarations like k in Z."""

import re

from srt.verifiers.math.forms import NamedSet

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
_INTEGERS = {
    r"\mathbb{Z}": "Z",
    r"\mathbb{Z}^{+}": "Z+",
    r"\mathbb{N}": "N",
    r"\mathbb{N}^{*}": "N*",
    "Z": "Z",
    "N": "N",
    r"\mathbb{Z}_{+}": "Z+",
    r"\mathbb{N}_{+}": "N*",
}
_INTEGER_WORDS = re.compile(
    r"^\\?(?:text{)?\s*\(?(?:where|for|with|for some|for any|for all|for every)?\s*(?:}|"
    r"\\text{)?\s*(?:some|any|all|every)?\s*(?:an?\s+)?(?:}\s*)?"
    r"(?:integers?\s*}?\s*([a-z])|([a-z])\s*(?:\\text{)?\s*(?:is|are|being)?\s*(?:an?|any)?\s*integers?)\s*}?\)?\s*}?$"
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
    if match := _TRAILING_MEMBER.search(text):
        if match[2] in _INTEGERS or match[4] in _INTEGERS:
            return text[: match.start()].rstrip(" ,"), frozenset(
                {(match[1] or match[3]) + _INTEGERS[match[2] or match[4]]}
            )
    if match := _TRAILING_WORDS.search(text):
        name = match[1] or match[2]
        if name and "integer" in match[0]:
            return text[: match.start()].rstrip(" ,"), frozenset({name + "Z"})
    return text, frozenset()


def declared_integers(part: str) -> set[str]:
    if match := _MEMBER.match(part):
        if match[2].strip() in _INTEGERS:
            return {name.strip() + _INTEGERS[match[2].strip()] for name in match[1].split(",")}
    if match := _INTEGER_WORDS.match(part):
        return {(match[1] or match[2]) + "Z"}
    return set()


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
    bare = text.replace(" ", "")
    symbols = {
        **{rf"\mathbb{{{name}}}": name for name in "RZNQC"},
        **dict.fromkeys((r"\emptyset", r"\{\}"), "empty"),
        **dict.fromkeys((r"\mathbf{R}", r"\Bbb{R}"), "R"),
        **dict.fromkeys((r"\mathbb{Z}^{+}", r"\mathbb{Z}_{+}", r"\mathbb{Z}_{>0}"), "Z+"),
        **dict.fromkeys((r"\mathbb{N}^{+}", r"\mathbb{N}_{+}", r"\mathbb{N}^{*}"), "Z+"),
    }
    return NamedSet(symbols[bare]) if bare in symbols else None
