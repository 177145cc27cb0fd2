"""For tests that run NeMo-RL itself: its source and the packages that it imports, or a loud skip."""

import importlib.util

import pytest

from opsd.select_engine import nemo_rl_source

PACKAGES = ("ray", "torchdata", "tensordict", "hydra")
missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def needs_nemo_rl(not_done: str) -> list[pytest.MarkDecorator]:
    """Marks for a module. `not_done`: what a skip leaves out, such as "no node was killed"."""
    return [
        pytest.mark.skipif(nemo_rl_source() is None, reason=f"NEMO_RL_DIR is not set: {not_done}"),
        pytest.mark.skipif(bool(missing), reason=f"{missing} not installed: {not_done}"),
    ]
