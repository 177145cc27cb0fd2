"""For tests that run NeMo-RL itself: its source and the packages that it imports, or a loud skip."""

import importlib.util

import pytest

from opsd.select_engine import nemo_rl_source

PACKAGES = ("ray", "torchdata", "tensordict", "hydra")
MEGATRON = ("megatron", "megatron.core", "megatron.bridge", "modelopt")  # what its Megatron worker needs besides


def missing_packages(*names: str) -> list[str]:
    """Those of `names` that are not installed."""
    missing: list[str] = []
    for name in names:
        parent = name.rpartition(".")[0]
        if parent in missing or importlib.util.find_spec(name) is None:
            missing.append(name)
    return missing


missing = missing_packages(*PACKAGES)


def needs_nemo_rl(not_done: str, more: tuple[str, ...] = ()) -> list[pytest.MarkDecorator]:
    """Marks for a module. `not_done`: what a skip leaves out, such as "no node was killed". `more`: packages
    besides, parents before what is in them."""
    absent = missing_packages(*PACKAGES, *more)
    return [
        pytest.mark.skipif(nemo_rl_source() is None, reason=f"NEMO_RL_DIR is not set: {not_done}"),
        pytest.mark.skipif(bool(absent), reason=f"{absent} not installed: {not_done}"),
    ]
