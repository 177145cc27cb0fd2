"""Final answers in text: the last \\boxed{...} of a response, the gold answer of a record."""

BOX_COMMANDS = ("\\boxed", "\\fbox")


def extract_boxed(text: str) -> str | None:
    """The content of the last box, braces balanced; None without a box.

    None as well when the last box is not closed: the response ended before it had given its answer, and an
    earlier box is not what it meant to say (marin issue 9163).
    """
    start = max(text.rfind(f"{command}{{") for command in BOX_COMMANDS)
    if start < 0:
        return None
    opening = text.index("{", start)
    depth = 0
    for position in range(opening, len(text)):
        escaped = text[position - 1] == "\\"  # \{ and \} are set braces, not groups
        if text[position] == "{" and not escaped:
            depth += 1
        elif text[position] == "}" and not escaped:
            depth -= 1
            if depth == 0:
                return text[opening + 1 : position].strip()
    return None


def extract_gold(text: str) -> str:
    """The gold answer of a record: inside the last box, after the last `#### ` (GSM8K), or the text itself."""
    boxed = extract_boxed(text)
    if boxed is not None:
        return boxed
    if "####" in text:
        return text.rsplit("####", 1)[1].strip()
    return text.strip()
