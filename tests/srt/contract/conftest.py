"""The fixture that the tests of the layout and of the prompt format share."""

import pytest

from tests.srt.helpers.layouts import OLMO_CHAT, QWEN_CHAT, new_layout


@pytest.fixture(params=["qwen", "olmo"])
def style(request):
    """A layout of each style, and its chat(x) for x = "Add 1"."""
    return new_layout(request.param), {"qwen": QWEN_CHAT, "olmo": OLMO_CHAT}[request.param]
