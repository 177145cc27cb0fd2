r"""Final answers: the last \boxed{...} of a response, and the gold answer of a record."""

import re

# The start of a box, an escaped character (\{ and \} are set braces, \\ is a line break), or a brace.
_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
MAX_NESTED_BOXES = 3  # each level is another pass over the text


def extract_boxed(text: str) -> str | None:
    r"""The content of the last complete box, with balanced braces; None when there is no final answer.

    - Of several boxes the last one counts; of nested boxes, as in \boxed{\boxed{4}}, the outermost.
    - None if a box is opened after the last complete one and never closed: the response ended before it gave its
      answer, and an earlier box is not what it was about to say (marin issue 9163).
    - A box that is never closed but *precedes* a complete one is a slip in the reasoning and is ignored.
    """
    first = _BOX.search(text)
    if first is None:
        return None
    open_braces: list[tuple[bool, int]] = []  # (is it a box?, where its content starts)
    complete: tuple[int, int] | None = None
    for token in _TOKEN.finditer(text, first.start()):
        kind = token.group()
        if kind[-1] == "{" and kind != r"\{":
            open_braces.append((len(kind) > 1, token.end()))
        elif kind == "}" and open_braces:
            is_box, start = open_braces.pop()
            if is_box:  # an enclosing box closes after the boxes inside it, and so replaces them
                complete = (start, token.start())
    if complete is None or any(is_box and start > complete[1] for is_box, start in open_braces):
        return None
    return _unwrap(text[complete[0] : complete[1]].strip())


def extract_gold(text: str) -> str:
    """The gold answer of a record: in the last box, after the last `####` (GSM8K), or the text itself."""
    boxed = extract_boxed(text)
    if boxed is not None:
        return boxed
    if "####" in text:
        answer_lines = text.rsplit("####", 1)[1].strip().splitlines()
        return answer_lines[0].strip() if answer_lines else ""
    return text.strip()


def _unwrap(answer: str) -> str:
    r"""\boxed{\boxed{4}} -> 4, up to MAX_NESTED_BOXES levels. Any other content is returned unchanged."""
    for _ in range(MAX_NESTED_BOXES):
        box = _BOX.match(answer)
        if box is None or not answer.endswith("}"):
            break
        inner = answer[box.end() : -1]
        depth = lowest = 0
        for token in _TOKEN.finditer(inner):
            brace = token.group()[-1] if token.group() not in (r"\{", r"\}") else ""
            depth += (brace == "{") - (brace == "}")
            lowest = min(lowest, depth)
        if lowest < 0:  # \boxed{1} and \boxed{2}: the last brace closes a different box
            break
        answer = inner.strip()
    return answer
