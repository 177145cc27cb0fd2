r"""One spelling for what LaTeX, Unicode and plain typing write differently: whitespace, size and color, brackets.

`clean` changes the spelling only, never the meaning. Two answers with the same `key` are the same answer; this
settles most right answers, also those that no parser reads. Everything here is applied to texts of bounded length
(see limits.py).
"""

import re
import unicodedata
from functools import lru_cache

from srt.verifiers.math.typed import FUNCTIONS, from_old_tex, from_plain_functions, with_braced_scripts

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣ", "0123456789+-=()nix")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙₖₘ", "0123456789+-=()nkm")
_SUPERSCRIPT_RUN = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣ]+")
_SUBSCRIPT_RUN = re.compile(r"[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙₖₘ]+")

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi "
    "psi omega"
).split()
_GREEK_LETTERS = "αβγδεζηθικλμνξπρστυφχψω"
_SYMBOLS = {
    **{letter: f"\\{name} " for letter, name in zip(_GREEK_LETTERS, _GREEK, strict=True)},
    **{"Δ": r"\Delta ", "Σ": r"\Sigma ", "Ω": r"\Omega ", "Π": r"\Pi ", "Φ": r"\Phi ", "ϕ": r"\phi "},
    **dict.fromkeys("−–—‐‑‒―﹣－", "-"),
    **dict.fromkeys(
        "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "
    ),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
    **dict.fromkeys("°º˚", r"^{\circ}"),
    **dict.fromkeys("′’‘´`", "'"),
    **dict.fromkeys("“”″", '"'),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("≤⩽≦", r"\leq "),
    **dict.fromkeys("≥⩾≧", r"\geq "),
    **{"×": r"\times ", "÷": r"\div ", "∕": "/", "⁄": "/", "／": "/", "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty "},
    **{"≠": r"\neq ", "≈": r"\approx ", "≡": r"\equiv ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap "},
    **{"∅": r"\emptyset ", "∖": r"\setminus ", "⊂": r"\subset ", "⊆": r"\subseteq ", "∣": "|", "√": r"\sqrt "},
    **{"∛": r"\sqrt[3]", "∠": r"\angle ", "△": r"\triangle ", "∧": r"\land ", "∨": r"\lor ", "…": r"\ldots "},
    **{
        "⟨": r"\langle ",
        "⟩": r"\rangle ",
        "〈": r"\langle ",
        "〉": r"\rangle ",
        "→": r"\to ",
        "⇒": r"\Rightarrow ",
    },
    **{"ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}"},
    **{"✓": "", "✔": "", "☑": "", "，": ",", "、": ",", "；": ";", "：": ":", "。": ".", "｜": "|", "％": r"\%"},
    **{
        "（": "(",
        "）": ")",
        "【": "[",
        "】": "]",
        "｛": r"\{",
        "｝": r"\}",
        "￥": "¥",
        "＄": r"\$",
        "℃": r"^{\circ}C",
    },
    **{"£": r"\text{£}", "€": r"\text{€}", "¥": r"\text{¥}", "∆": r"\Delta ", "√": r"\sqrt ", "ı": "i"},
}
_UNICODE = str.maketrans(_SYMBOLS)
_FRACTIONS = {
    c: "\\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", c).split("⁄")) for c in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
}

# Commands whose argument in braces is kept.
_KEPT = re.compile(
    r"\\(?:boxed|fbox|underline|displaylines|mathstrut|cancel|boldsymbol|bm|pmb|mathbf|mathit|mathsf|mathcal|vec|"
    r"overrightarrow|hat|mathrm|operatorname\*?|text(?:bf|rm|it|sf|tt|normal|up|md)?|mbox|hbox|emph|mathop|mathord)"
    r"\s*(?={)"
)
_VECTORS = ("vec", "overrightarrow", "mathbf", "boldsymbol", "bm", "pmb")
_WORDY = ("text", "mbox", "hbox", "emph", "mathrm", "operatorname", "mathop", "mathbf", "mathit", "mathsf")
_COLOR = re.compile(r"\\(?:color|colorbox|textcolor|hspace\*?|vspace\*?|phantom|label|tag\*?)\s*{[^{}]*}")
_SIZES = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|tiny|scriptsize|"
    r"footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bf|rm|it|cal|centering|checkmark|square|"
    r"blacksquare|qed|nonumber|bold)(?![A-Za-z])(?:\s*\.(?=\s*(?:\\|$)))?|\\[,;!:>]"
)
_SPACES = re.compile(r"\\(?:thinspace|enspace|space|medspace|thickspace|negthinspace)(?![A-Za-z])|(?<!\\)\\ |~|\s")
_DOLLARS = re.compile(
    r"(?<!\\)\$|\\[()\[\]](?!\s*\d*(?:ex|em|pt|mm)\])|\\begin{(?:math|equation\*?|align\*?)}|"
    r"\\end{(?:math|equation\*?|align\*?)}"
)
_SYNONYMS = {
    **{"dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom"},
    **{"le": "leq", "ge": "geq", "ne": "neq", "leqslant": "leq", "geqslant": "geq", "leqq": "leq", "geqq": "geq"},
    **{"lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lt": "<", "gt": ">", "colon": ":", "ast": r"\cdot"},
    **{"lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "langle": "(", "rangle": ")"},
    **{"varnothing": "emptyset", "bmod": "mod", "thickapprox": "approx", "simeq": "approx", "doteq": "approx"},
    **{"dots": "ldots", "cdots": "ldots", "varepsilon": "epsilon", "varphi": "phi", "backslash": "setminus"},
    **{"degree": r"^{\circ}", "wedge": "land", "vee": "lor", "bigcup": "cup", "imath": "i", "jmath": "j"},
    **{
        "qquad": "quad",
        "dotsc": "ldots",
        "implies": "Rightarrow",
        "R": r"\mathbb{R}",
        "Z": r"\mathbb{Z}",
        "N": r"\mathbb{N}",
    },
    **{"lparen": "(", "rparen": ")", "tg": "tan", "ctg": "cot", "arctg": "arctan", "arcctg": "arccot"},
    **{"lb": "", "percent": r"\%", "euro": "€", "pounds": "£", "S": "", "to": r"\to", "rightarrow": r"\to"},
}
_COMMAND = re.compile(r"\\([A-Za-z]+)(?![A-Za-z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:([0-9A-Za-z])|{([^{}]*)})\s*(?:([0-9A-Za-z])|{([^{}]*)})")
_FRACTION_OF_DIGITS = re.compile(r"\\frac\s*(?=[0-9A-Za-z]|{[^{}]*}\s*[0-9A-Za-z])")
_FRACTION = re.compile(r"\\frac\s?{")
_FRACTION_WITHOUT_BRACES = re.compile(r"\\frac\s?{.*}\s?(?:[0-9A-Za-z]|\\pi)")
_BARE_DENOMINATOR = re.compile(r"\s?([0-9A-Za-z]|\\pi(?![A-Za-z]))")
_ROOT = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*(\d+(?:\.\d+)?|[A-Za-z]|\\pi)(?![{])")
_PLAIN_ROOT = re.compile(r"(?<![A-Za-z\\])sqrt\s*(?:\(([^()]*)\)|{([^{}]*)}|(\d+|[A-Za-z](?![A-Za-z])))")
_ROOT_OF_PARENTHESIS = re.compile(r"\\sqrt\s*\(([^()]*)\)")
_PLAIN_NAMES = re.compile(r"(?<![A-Za-z\\])(pi|infinity|infty|inf|oo|theta|alpha|beta|lambda|phi)(?![A-Za-z])")
_SCRIPT = re.compile(
    r"([_^])\s*(?:([+-]?\d+(?:\.\d+)?|[A-Za-z*'])(?![{])|(\\(?!frac|sqrt|text|circ)[A-Za-z]+)(?![{A-Za-z]))"
)
_SIGN_OF_NUMBERS = re.compile(r"((?<=\\mathbb{[RZNQC]})[_^])\s?([+-])(?!\d)")  # \mathbb{Z}^+
_SCRIPT_OF_PARENTHESIS = re.compile(r"\^\s*\(([^()]*)\)")
_MODULUS = re.compile(r"\\pmod\s*(\d+|[A-Za-z](?![A-Za-z]))")
_BRACED_COMMA = re.compile(r"{\s*([,:.;])\s*}")
_OPERATORS = (
    (">=", r"\geq "),
    ("<=", r"\leq "),
    ("=>", r"\Rightarrow "),
    ("!=", r"\neq "),
    ("~=", r"\approx "),
    ("**", "^"),
)
_FRACTION_OF_UNITS = re.compile(r"\\frac\s*{\s*\\text{([^{}]*)}\s*}\s*{\s*\\text{([^{}]*)}\s*}")
_UNBRACED = re.compile(r"\\(mathrm|mathbf|mathbb|mathit|vec|hat|boldsymbol|bm)\s+([A-Za-z])(?![A-Za-z])")
_ARRAY = re.compile(r"[\[(]\s*\\begin{(array|matrix)}(?:{[^{}]*})?(.*?)\\end{\1}\s*[\])]", re.DOTALL)
_ARRAY_OF_CASES = re.compile(r"\\{\s*\\begin{array}(?:{[^{}]*})?(.*?)\\end{array}(?!\s*\\})", re.DOTALL)
_COLUMN_OF_IF = re.compile(r"&\s*\\text\s*{\s*(?:if|for|when)\s*,?\s*}\s*&")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z])")  # a backslash that was escaped once too often
_NEGATIVE_SPACE = re.compile(r",\s?\\!\s?")  # 11,\! 111
_NOT_EQUAL = re.compile(r"\\not\s*=")
_NOT_IN = re.compile(r"\\(?:notin|not\s?\\in)(?![A-Za-z])\s*\\{((?:[^{}\\]|\\(?![{}]))*)\\}")  # x \notin \{1, 2\}
_TEXT = re.compile(r"\\text{([^{}]*)}")
_DEGREE = re.compile(r"\^\s*(?:{\s*\\circ\s*}|\\circ(?![A-Za-z]))")
# A space, except between digits, and braces that are no argument.
_INVISIBLE = re.compile(r"(?<!\d) | (?!\d)|(?<![A-Za-z0-9_^\]}\\]){([^{}]*)}")
_BLANKS = re.compile(r"[ \t\n\r]+")


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    r"""`text` in one spelling.

    >>> clean(r"$\left(\dfrac12,\; \sqrt2\right)$")
    '(\\frac{1}{2}, \\sqrt{2})'
    >>> clean("10⁻³ ≤ x")
    '10^{-3} \\leq x'
    """
    text = _from_unicode(text)
    if r"\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    text = _NEGATIVE_SPACE.sub(",", text)
    text = _UNBRACED.sub(r"\\\1{\2}", text)
    if text.startswith("**") and text.endswith("**"):  # Markdown
        text = text.strip("*")
    text = text.replace(r"\$", r"\text{USD}")
    text = _DOLLARS.sub(" ", text.replace("\\\\(", "\\\\ (").replace("\\\\[", "\\\\ ["))
    text = _COLOR.sub("", text)
    text = _keep_arguments(text)
    text = _SIZES.sub(" ", text)
    text = _NOT_IN.sub(r"\\neq \1", _NOT_EQUAL.sub(r"\\neq ", text))
    text = _COMMAND.sub(_synonym, text)
    for old, new in _OPERATORS:
        text = text.replace(old, new)
    text = _ARRAY.sub(r"\\begin{bmatrix}\2\\end{bmatrix}", text)
    if r"\begin{array}" in text:
        text = _ARRAY_OF_CASES.sub(lambda m: rf"\begin{{cases}}{_COLUMN_OF_IF.sub('&', m[1])}\end{{cases}}", text)
    text = _FRACTION_OF_UNITS.sub(r"\\text{\1/\2}", text)
    words = _TEXT.split(text)  # formulas and the contents of \text{} in turn
    words[::2] = [_clean_formula(part) for part in words[::2]]
    words[1::2] = [
        f"\\text{{{_BLANKS.sub(' ', part.replace('~', ' '))}}}" if part.strip() else " " for part in words[1::2]
    ]
    text = _BLANKS.sub(" ", "".join(words)).strip()
    return _without_end(text)


@lru_cache(maxsize=4096)
def key(text: str) -> str:
    r"""What two answers that differ only in spelling have in common: the cleaned text without whitespace.

    >>> key(r"n \equiv 1\pmod 7") == key(r"n\equiv 1 \pmod{7}")
    True
    """
    text = clean(text)
    parts = _TEXT.split(text)
    parts[::2] = [_INVISIBLE.sub(r"\1", part.replace(r"\quad", " ")) for part in parts[::2]]
    parts[1::2] = [part.strip().lower() for part in parts[1::2]]
    return "".join(parts)


def _from_unicode(text: str) -> str:
    if text.isascii():
        return text
    text = _SUPERSCRIPT_RUN.sub(lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _SUBSCRIPT_RUN.sub(lambda m: f"_{{{m[0].translate(_SUBSCRIPTS)}}}", text)
    for character, fraction in _FRACTIONS.items():
        text = text.replace(character, fraction)
    text = text.translate(_UNICODE)
    if text.isascii():
        return text
    kept = "".join(c if c in "①②③④⑤⑥⑦⑧⑨⑩" else unicodedata.normalize("NFKC", c) for c in text)
    return kept.replace("‐", "-")


def _keep_arguments(text: str) -> str:
    r"""\boxed{x} -> x, \mathrm{cm} -> \text{cm}, \mathrm{i} -> i, \vec{i} -> i_{v}, a unit vector."""
    position = 0
    for _ in range(100):
        match = _KEPT.search(text, position)
        if match is None:
            return text
        end = closing_brace(text, match.end())
        if end is None:
            return text
        command = match[0].strip()[1:]
        content = text[match.end() + 1 : end]
        inside = content.strip()
        new, position = "{" + content + "}", match.start()
        if inside.lstrip("\\") in ("i", "j", "k", "imath", "jmath") and command in (*_VECTORS, "hat"):
            new = f"{inside.lstrip(chr(92))[0]}_{{v}}"
        elif command == "hat":
            position = match.end()
            continue
        elif re.fullmatch(r"[A-Za-z]|[A-Za-z]_{?\w}?", inside) and not command.startswith(
            ("text", "mbox", "hbox")
        ):
            new = f" {inside} "
        elif command.startswith(_WORDY):
            name = inside.replace(" ", "")
            if name in _FUNCTIONS and (
                command.startswith("op") or (command.startswith("math") and name not in ("min", "sec"))
            ):
                new = f"\\{name} "
            elif name in FUNCTIONS and command.startswith("op"):
                new = f" {name}"
            elif re.fullmatch(r"[-+]?[\d.,]+", inside):
                new = inside
            elif "{" not in content and "\\" not in content.replace("\\ ", ""):
                new = "\\text{" + content.replace("\\ ", " ").replace("$", " ") + "}"
                if text[match.start() : end + 1] == new:
                    position = end + 1
            else:  # words and formulas together
                new = " " + content + " "
        elif command in ("boxed", "fbox", "underline", "displaylines"):
            new = f" {inside} "
        text = text[: match.start()] + new + text[end + 1 :]
        position = max(position, match.start()) if new.startswith("\\text") is False else match.start() + len(new)
    return text


_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp max min gcd lcm det".split()
)


def closing_brace(text: str, start: int) -> int | None:
    """The index of the brace that closes the one at `start`."""
    depth = 0
    position = start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 2
            continue
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return position
        position += 1
    return None


def _synonym(match: re.Match) -> str:
    new = _SYNONYMS.get(match[1])
    if new is None:
        return match[0]
    return f"\\{new}" if new.isalpha() and len(new) > 1 else f"{new} " if new else ""


def _clean_formula(text: str) -> str:
    text = text.replace('"', " ")
    text = _DEGREE.sub(r"^{\\circ}", _SPACES.sub(" ", text))
    text = _BRACED_COMMA.sub(r"\1", text)
    text = from_plain_functions(from_old_tex(text))
    text = _PLAIN_ROOT.sub(lambda m: f"\\sqrt{{{m[1] or m[2] or m[3]}}}", text)
    text = _PLAIN_NAMES.sub(lambda m: "\\infty " if m[1].startswith(("inf", "oo")) else f"\\{m[1]} ", text)
    text = re.sub(r"(?<=\d)pi(?![A-Za-z])", r"\\pi ", text)
    text = _ROOT_OF_PARENTHESIS.sub(r"\\sqrt{\1}", text)
    text = _ROOT.sub(lambda m: f"\\sqrt{m[1] or ''}{{{m[2]}}}", text)
    text = _MODULUS.sub(r"\\pmod{\1}", text)
    text = _SCRIPT_OF_PARENTHESIS.sub(r"^{\1}", text)
    if r"\mathbb" in text:
        text = _SIGN_OF_NUMBERS.sub(r"\1{\2}", text)
    text = _SCRIPT.sub(lambda m: f"{m[1]}{{{m[2] or m[3]}}}", text)
    for _ in range(3):
        text = _SHORT_FRACTION.sub(_braced_fraction, text)
        if not _FRACTION_OF_DIGITS.search(text):
            break
    if _FRACTION_WITHOUT_BRACES.search(text):
        text = _with_braced_denominators(text)
    text = with_braced_scripts(text)
    text = re.sub(r"(\\[A-Za-z]+) +(?=[^A-Za-z ])", r"\1", text)
    text = re.sub(r"(?<=[({]) +| +(?=[)}])", "", text) if r"\}" not in text else text
    return re.sub(r" *([_^]) *", r"\1", text)


def _braced_fraction(match: re.Match) -> str:
    top, bottom = (match[1] or match[2] or "").strip(), (match[3] or match[4] or "").strip()
    return f"\\frac{{{top}}}{{{bottom}}}"


def _with_braced_denominators(text: str) -> str:
    r"""\frac{\sqrt{3}}2 -> \frac{\sqrt{3}}{2}: what _SHORT_FRACTION does for numerators without braces inside."""
    for match in reversed(list(_FRACTION.finditer(text))):
        end = closing_brace(text, match.end() - 1)
        if end is not None and (bare := _BARE_DENOMINATOR.match(text, end + 1)):
            text = f"{text[: end + 1]}{{{bare[1]}}}{text[bare.end() :]}"
    return text


def _without_end(text: str) -> str:
    """Without braces around everything, and without a full stop or comma at the end."""
    for _ in range(10):
        before = text
        text = text.strip().rstrip(",;\\").strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        if text.startswith("{") and closing_brace(text, 0) == len(text) - 1 and "," not in text:
            text = text[1:-1]
        if text == before:
            break
    return text


def without_text(text: str) -> str:
    r"""`text` with each \text{...} replaced by its content."""
    return _TEXT.sub(r" \1 ", text).strip()
