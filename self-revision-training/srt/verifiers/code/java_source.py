"""What the names of Java classes decide: the source file's name and the class that is started.

A scanner for comments, strings and braces, not a parser: it is only asked about programs that javac then compiles.
It takes time linear in the length of the program.
"""

import re
from dataclasses import dataclass

# Comments and strings that never end reach to the end of the program or line: no text is scanned twice. A text
# block comes before a string, which its quotes would begin.
_TOKENS = re.compile(
    r"""
    //[^\n]*+
    | /\*[\s\S]*?(?:\*/|\Z)
    | \"\"\"(?:[^"\\]++|\\[\s\S]|"(?!""))*+(?:\"\"\"|\Z)?
    | "(?:[^"\\\n]++|\\.)*+"?
    | '(?:[^'\\\n]++|\\.)*+'?
    | (?P<token>[^\W\d][\w$]*+ | \$[\w$]*+ | [{}();.])
    """,
    re.VERBOSE,
)
_TYPES = ("class", "interface", "enum", "record")


@dataclass
class JavaClass:
    """`outer`: the class around it, or None. `package`: with the dot, or empty."""

    simple_name: str
    outer: "JavaClass | None"
    package: str
    is_public: bool
    has_main: bool = False

    def binary_name(self) -> str:
        """As the virtual machine calls it: package.Outer$Inner."""
        names, java_class = [self.simple_name], self
        while java_class := java_class.outer:
            names.append(java_class.simple_name)
        return self.package + "$".join(reversed(names))


def java_file_name(program: str) -> str:
    """javac wants a file that has the name of the public top-level class, if there is one."""
    classes = [found for found in java_classes(program) if found.outer is None]
    public = next((found for found in classes if found.is_public), None)
    chosen = public or main_class_of(program)
    while chosen and chosen.outer:
        chosen = chosen.outer
    return f"{chosen.simple_name if chosen else 'Main'}.java"


def java_main_class(program: str) -> str:
    """The class that is started, for `java -cp`."""
    found = main_class_of(program)
    return found.binary_name() if found else "Main"


def main_class_of(program: str) -> JavaClass | None:
    """The first of the classes with a static main(): public ones first, then other top-level ones, then nested."""
    found = [java_class for java_class in java_classes(program) if java_class.has_main]
    return min(found, key=lambda found: (found.outer is not None, not found.is_public), default=None)


def java_classes(program: str) -> list[JavaClass]:
    """In the order in which they begin; classes inside methods are left out."""
    tokens = [match["token"] for match in _TOKENS.finditer(program) if match["token"]]
    package = ""
    classes: list[JavaClass] = []
    open_braces: list[JavaClass | None] = []  # the class of each open brace; None: a method or block
    header: JavaClass | None = None  # the class whose opening brace comes next
    parentheses = 0
    words: set[str] = set()  # since the last member began
    for position, token in enumerate(tokens):
        before = tokens[position - 1] if position else ""
        after = tokens[position + 1] if position + 1 < len(tokens) else ""
        if token == "package" and not classes:
            package = "".join(_until_semicolon(tokens, position + 1)) + "."
        elif (not open_braces or open_braces[-1]) and _begins_class(tokens, position):
            header = JavaClass(after, open_braces[-1] if open_braces else None, package, "public" in words)
            classes.append(header)
        elif token == "main" and after == "(" and before == "void" and "static" in words and parentheses == 0:
            if open_braces and (owner := open_braces[-1]):
                owner.has_main = True
        if token in "()":
            parentheses += 1 if token == "(" else -1
        if token == "{":
            open_braces.append(header if parentheses == 0 else None)
            header = None if parentheses == 0 else header
        elif token == "}" and open_braces:
            open_braces.pop()
        if token in "{};":
            words = set()
        else:
            words.add(token)
    return classes


def _begins_class(tokens: list[str], position: int) -> bool:
    """Not `X.class`; `record` is a keyword only before a name (with type parameters) and its components."""
    if tokens[position] not in _TYPES or tokens[position - 1 : position] == ["."]:
        return False
    following = tokens[position + 1 : position + 12]
    if not following or not re.match(r"[^\W\d]|\$", following[0]):
        return False
    if tokens[position] != "record":
        return True
    return next((token for token in following[1:] if token in "(){};."), "") == "("


def _until_semicolon(tokens: list[str], position: int) -> list[str]:
    name: list[str] = []
    for token in tokens[position : position + 100]:
        if token == ";":
            break
        name.append(token)
    return name
