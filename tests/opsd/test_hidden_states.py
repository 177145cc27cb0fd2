"""Hidden states, heads and their positions against the model's own forward pass."""

import copy

import pytest
import torch

from opsd.hidden_states import check_supported, lm_head, predicting_hidden
from opsd.kl import exact_kl
from opsd.pairs import build_pair
from srt.common.errors import UserError
from srt.common.models import load_model
from tests.families.models import tiny

TEXTS = ("\\boxed{2}", "A 1 + 1 = 2\nB 2 * 3 = 6\n\\boxed{6}", "7", "A 1 + 1 = 3\n\\boxed{3}")


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_model(str(tiny_checkpoint)).eval()


@pytest.fixture
def sequences(make_rollout, layout):
    """Student and teacher sequences of different lengths."""
    pairs = [build_pair(make_rollout(text), layout, max_teacher_tokens=1000) for text in TEXTS]
    return [sequence for pair in pairs for sequence in (pair.student, pair.teacher)]


@torch.no_grad()
def test_sequences_of_a_batch_give_what_each_gives_alone_at_the_position_before_each_token(
    model, sequences, layout
):
    batched = predicting_hidden(model, sequences, layout.tokenizer.pad_token_id)
    alone = []
    for sequence in sequences:
        hidden = model.model(input_ids=torch.tensor([sequence.ids])).last_hidden_state[0]
        alone += [hidden[t - 1] for t in range(sequence.start, len(sequence.ids))]
    torch.testing.assert_close(batched, torch.stack(alone), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_does_not_matter(model, sequences):
    expected = predicting_hidden(model, sequences, pad_id=0)
    torch.testing.assert_close(predicting_hidden(model, sequences, pad_id=7), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_head_times_hidden_is_the_models_logits(model, sequences):
    head = lm_head(model)
    logits = predicting_hidden(model, sequences[:1], pad_id=0) @ head.weight.T
    expected = model(input_ids=torch.tensor([sequences[0].ids])).logits[0, sequences[0].start - 1 : -1]
    assert head.bias is None and head.vocab_size == len(head.weight)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_gradient_through_a_tied_head_reaches_the_embedding(model, sequences):
    student = copy.deepcopy(model).requires_grad_(False)
    embedding = student.get_input_embeddings().weight.requires_grad_()
    weight = lm_head(student).weight
    with torch.no_grad():
        hidden = predicting_hidden(student, sequences[:1], pad_id=0)  # no gradient by the way of the inputs
    other = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    exact_kl(hidden, weight, hidden, other, torch.ones(len(hidden))).loss.backward()
    assert embedding.grad.abs().sum(-1).gt(0).all()  # every token of the vocabulary is in the softmax


def tiny_gemma(**settings):
    return tiny("gemma2", **settings)[1]


def test_a_model_whose_tokens_look_ahead_is_refused(model):
    with pytest.raises(UserError, match="some/model: its config sets use_bidirectional_attention"):
        check_supported(tiny_gemma(use_bidirectional_attention=True, final_logit_softcapping=None), "some/model")
    check_supported(tiny_gemma(final_logit_softcapping=None), "gemma")
    check_supported(model, "tiny")


@pytest.mark.parametrize("window", [4, 1000])
@torch.no_grad()
def test_padding_does_not_matter_to_sliding_windows(sequences, window):
    """Without a mask a window must still be one of the real tokens before, whatever follows."""
    gemma = tiny_gemma(vocab_size=400, sliding_window=window)
    batched = predicting_hidden(gemma, sequences, pad_id=0)
    alone = torch.cat([predicting_hidden(gemma, [sequence], pad_id=0) for sequence in sequences])
    torch.testing.assert_close(batched, alone, rtol=1e-4, atol=1e-5)
