"""The control phrases the base meets in its training text (paper, section 3; the Qwen set)."""

PHRASES = {
    1: "Let me rephrase the above solution.",
    0: "Wait, this response is wrong. Let me correct it.",
}
