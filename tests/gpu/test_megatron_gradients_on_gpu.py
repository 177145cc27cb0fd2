"""An update on Megatron-Core's models on GPUs: every weight's gradient is that of the full logits in fp32.

Without NeMo-RL's workers, so that a minute suffices. "wide" has layers as wide as those of a model with 4B
parameters.
"""

import math
import random

import pytest
import torch

from opsd.config import DistillConfig, optimizer_config
from opsd.nemo_rl.micro_batches import PairIds, RankUpdate
from opsd.select_engine import why_no_megatron
from srt.config import load_config
from srt.contract.layout import TokenSequence
from tests.opsd.helpers.megatron_layer_kinds import LAYERS
from tests.opsd.helpers.on_ranks import run_ranks
from tests.opsd.nemo_rl.test_megatron_step import RUN

missing = why_no_megatron()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(missing is not None, reason=f"Megatron was NOT run: {missing}"),
]
RANKS = {"one": 1, "tensor": 2, "sequence": 2}  # of tensor parallelism, the last with sequence parallelism
VOCABULARY, PADDING = 500, 12
LENGTHS = (300, 77, 210, 513)  # of y


def pair(length: int, draw: random.Random) -> PairIds:
    prompt, y, cue = ([draw.randrange(VOCABULARY) for _ in range(n)] for n in (20, length, 16))
    return PairIds(
        TokenSequence(prompt + y, len(prompt)), TokenSequence(prompt + y + cue + y, len(prompt + y + cue))
    )


@pytest.fixture(scope="module", params=["small", "wide"])
def size(request):
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    draw = random.Random(0)
    pairs = [pair(length, draw) for length in LENGTHS]
    sections = optimizer_config(load_config(DistillConfig, "distill", []), 10).megatron_sections()
    updates = {"one": [[RankUpdate([pairs[:2], pairs[2:]], sum(LENGTHS))]]}
    work = {"sections": sections, "updates": updates, "vocab_size": VOCABULARY, "rows": VOCABULARY + PADDING}
    folder = tmp_path_factory.mktemp("megatron")
    torch.save(work, folder / "work.pt")
    return folder


@pytest.fixture(scope="module")
def expected(folder, size):
    return run_ranks(RUN, "dense", 1, folder, GPU_LAYERS="local", SIZE=size)[0]


@LAYERS
@pytest.mark.parametrize("sharding", RANKS)
def test_every_weights_gradient_is_that_of_the_full_logits(folder, expected, size, sharding, layers):
    if torch.cuda.device_count() < RANKS[sharding]:
        pytest.skip("needs two GPUs")
    for found in run_ranks(RUN, sharding, RANKS[sharding], folder, GPU_LAYERS=layers, SIZE=size):
        for tied in (True, False):
            token_kl = torch.cat([output.token_kl for output in found[tied]["update"].outputs])
            wanted, difference = torch.cat(expected[tied]["token_kl"]).cpu(), {}
            assert float((token_kl - wanted).norm() / wanted.norm()) < 0.05
            (gradients,) = expected[tied]["gradients"]
            for name, gradient in gradients.items():
                difference[name] = float((found[tied]["gradients"][name] - gradient).norm() / gradient.norm())
            assert all(each < 0.1 for each in difference.values()), difference
            norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
            assert found[tied]["update"].grad_norm == pytest.approx(norm, rel=0.05)
