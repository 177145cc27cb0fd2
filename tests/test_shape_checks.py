"""The annotated shapes of srt and opsd are checked in the tests, and nothing but shapes is."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jaxtyping import Float, Int, TypeCheckError, jaxtyped
from torch import Tensor

from opsd.kl import KLOutput
from tests.shape_checks import check_arrays, missing_checker

pytestmark = pytest.mark.skipif(missing_checker() is not None, reason=f"NOT checked: {missing_checker()}")


class Model:
    pass


@jaxtyped(typechecker=check_arrays)
def weighted(
    x: Float[Tensor, "T V"],
    weights: Float[Tensor, " T"],
    model: Model,
    targets: Int[Tensor, " T"] | None = None,
    mistake: bool = False,
) -> tuple[Float[Tensor, "T V"], int]:
    y = x * weights[:, None]
    return (y.T if mistake else y), 1


X, WEIGHTS = torch.ones(3, 5), torch.ones(3)
TEST_DOUBLE: Any = SimpleNamespace()


def test_matching_shapes_and_test_doubles_pass():
    weighted(X, WEIGHTS, TEST_DOUBLE)
    weighted(X, WEIGHTS, TEST_DOUBLE, torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, torch.ones(4), TEST_DOUBLE), "parameter 'weights'"),
        ((X[0], WEIGHTS, TEST_DOUBLE), "parameter 'x'"),
        ((X.long(), WEIGHTS, TEST_DOUBLE), "parameter 'x'"),
        ((X, WEIGHTS, TEST_DOUBLE, torch.zeros(2, dtype=torch.long)), "parameter 'targets'"),
        ((X, WEIGHTS, TEST_DOUBLE, WEIGHTS), "parameter 'targets'"),
        ((X, WEIGHTS, TEST_DOUBLE, None, True), "the return value"),
    ],
)
def test_a_wrong_shape_or_dtype_is_a_type_check_error(arguments, message):
    with pytest.raises(TypeCheckError, match=message):
        weighted(*arguments)


def test_the_code_under_test_is_checked():
    with pytest.raises(TypeCheckError, match="parameter 'student_entropy'"):
        KLOutput(loss=torch.tensor(0.0), token_kl=torch.zeros(3), student_entropy=torch.zeros(4))
