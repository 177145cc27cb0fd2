"""SFT, packed and padded: loss and gradient are those of one tuple at a time, for every family."""

import random

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from srt.common.errors import UserError
from srt.config import load_config
from srt.contract.layout import TokenSequence
from srt.sft.config import SftConfig
from srt.sft.model_check import check_model
from srt.sft.trainer import PassCollator
from srt.sft.weights import new_model
from tests.families.models import PADDED, VOCAB_SIZE

DRAW = random.Random(0)
SEQUENCES = [
    TokenSequence([DRAW.randrange(3, VOCAB_SIZE) for _ in range(length)], start)
    for length, start in ((9, 4), (21, 1), (14, 9))
]
SUPERVISED = sum(len(sequence.ids) - sequence.start for sequence in SEQUENCES)
# Refused: a cap under a name that TRL does not know; a layer between the last hidden states and the LM head.
REFUSED = {"recurrent_gemma", "modernbert-decoder"}
Gradients = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def naive(reference, naive_logprobs, family) -> tuple[float, Gradients]:
    """Loss and gradients of one tuple at a time, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for sequence in SEQUENCES:
        log_probs = naive_logprobs(sequence.ids).gather(-1, torch.tensor(sequence.ids[1:])[:, None])
        total = total - log_probs[sequence.start - 1 :].sum()
    reference.zero_grad()
    (total / SUPERVISED).backward()
    return float(total.detach()) / SUPERVISED, gradients_of(reference)


def gradients_of(model) -> Gradients:
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("packing", [0, 1], ids=["padded", "packed"])
def test_loss_and_gradient_of_a_pass_are_those_of_its_tuples_apart(checkpoint, family, naive, packing, capsys):
    settings = [f"base_model={checkpoint}", f"packing={packing}", "gradient_checkpointing=0"]
    config = load_config(SftConfig, "sft", settings)
    longest = max(len(sequence.ids) for sequence in SEQUENCES)
    if family in REFUSED:
        with pytest.raises(UserError, match="cannot be trained: its log-probs differ"):
            check_model(config, longest)
        return
    attention = check_model(config, longest)
    assert attention.packed == (packing and family not in PADDED)
    assert ("padding instead of packing, because" in capsys.readouterr().out) == (packing != attention.packed)
    model = new_model(str(checkpoint), config, attention.implementation)
    add_fused_lm_head(model)
    batch = PassCollator(SEQUENCES, 0, attention.packed)([{"tuples": [0, 1, 2]}])
    loss = -model.train()(**batch, use_cache=False, fused_lm_head=True).log_probs.sum() / SUPERVISED
    loss.backward()
    expected_loss, expected = naive
    assert loss.item() == pytest.approx(expected_loss, rel=1e-4)
    if family == "phimoe":
        return  # in training, its experts' gradient has random parts (SparseMixer)
    gradients = gradients_of(model)
    assert gradients.keys() == expected.keys()
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    differences = torch.stack([(gradients[name] - expected[name]).norm() for name in expected])
    assert differences.norm() < 1e-3 * norm
