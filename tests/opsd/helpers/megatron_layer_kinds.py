"""The layers with which Megatron's GPU checks run: both kinds of MEGATRON_LAYERS, te where it is installed."""

import pytest

from opsd.select_engine import why_no_transformer_engine

_missing = why_no_transformer_engine()
LAYERS = pytest.mark.parametrize(
    "layers",
    [pytest.param("te", marks=pytest.mark.skipif(_missing is not None, reason=f"NOT run: {_missing}")), "local"],
)
