"""Scores: the same as training's, and against full softmaxes in float64."""

from dataclasses import replace

import pytest
import torch

from opsd.hidden_states import LMHead
from opsd.kl import LogitTransform, chunks
from opsd.localize.details import token_details
from opsd.localize.models import open_models
from opsd.localize.records import ScoredResponse
from opsd.localize.scoring import PairScorer
from opsd.localize.variants import Variants
from opsd.pairs import build_pair
from srt.common.errors import UserError
from srt.common.models import load_model, padding_id, vocab_size
from srt.contract.layout import Layout, predicting_positions
from srt.contract.phrases import PhraseSet
from tests.opsd.conftest import problem

NEUTRAL = "Here is the response once more."
BUDGET = 400


@pytest.fixture(scope="session")
def make_scorer(layout, tiny_checkpoint, other_checkpoint):
    def make(student=tiny_checkpoint, teacher=other_checkpoint, packing="0", **settings) -> PairScorer:
        models = open_models(str(student), str(teacher), packing, BUDGET)
        return PairScorer(
            *models,
            **{
                "layout": layout,
                "pad_id": padding_id(str(student), layout.tokenizer, layout.eot),
                "max_teacher_tokens": BUDGET,
                "tokens_per_micro_batch": 500,
                "alternatives": 3,
                "compare": True,
                "variants": Variants.open(layout, NEUTRAL),
                "teacher_vocab": vocab_size(str(teacher)),
                **settings,
            },
        )

    return make


@pytest.fixture(scope="session")
def scores(make_scorer, graded):
    scorer = make_scorer()
    return {one.key: one for batch in scorer.score(scorer.items(graded)) for one in batch}


def full_logprobs(checkpoint, sequence):
    """(T, V): of the supervised tokens of one sequence, alone, from the model's own logits in float64."""
    model = load_model(str(checkpoint), "float32").double().eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([sequence.ids]), use_cache=False).logits[0]
    positions = predicting_positions(sequence)
    return logits[positions.start : positions.stop].log_softmax(-1)


def test_every_response_is_scored_once_with_a_value_for_each_token(scores, graded):
    assert sorted(scores) == [(one.problem, one.response) for one in graded]
    for one in graded:
        score = scores[one.problem, one.response]
        assert score.ids == one.rollout.y
        assert (score.r, score.finish_reason) == (one.rollout.r, one.rollout.finish_reason)
        lists = (score.tokens, score.kl, score.student_logprob, score.teacher_rank, score.alternatives)
        assert {len(values) for values in lists} == {len(score.ids)}


def test_the_kl_is_that_of_the_training_engine(scores, graded, open_run, tiny_checkpoint, other_checkpoint):
    """By opsd.local: what an update would have computed for the same rollouts."""
    opened = open_run(
        str(tiny_checkpoint), [problem("x = 1")], teacher=str(other_checkpoint), max_teacher_tokens=BUDGET
    )
    pairs = [build_pair(one.rollout, opened.run.layout, BUDGET) for one in graded]
    expected = {}
    for batch, output in opened.engine.score(pairs):
        start = 0
        for pair in batch:
            end = start + len(pair.targets)
            expected[pair.rollout.problem.id] = output.token_kl[start:end]
            start = end
    opened.engine.close()
    for score in scores.values():
        torch.testing.assert_close(torch.tensor(score.kl), expected[score.id], rtol=1e-4, atol=1e-6)
    assert max(max(score.kl) for score in scores.values()) > 0.01  # nothing to compare otherwise


@pytest.mark.parametrize("index", [0, 5, 11])
def test_values_against_full_softmaxes_in_float64(
    scores, graded, layout, tiny_checkpoint, other_checkpoint, index
):
    pair = build_pair(graded[index].rollout, layout, BUDGET)
    score = scores[index, 0]
    student = full_logprobs(tiny_checkpoint, pair.student)
    teacher = full_logprobs(other_checkpoint, pair.teacher)
    own = torch.tensor(pair.targets)[:, None]

    def close(actual, expected):
        torch.testing.assert_close(torch.tensor(actual).double(), expected, rtol=2e-3, atol=2e-5)

    close(score.kl, (student.exp() * (student - teacher)).sum(-1))
    close(score.student_entropy, -(student.exp() * student).sum(-1))
    close(score.teacher_entropy, -(teacher.exp() * teacher).sum(-1))
    close(score.student_logprob, student.gather(-1, own)[:, 0])
    close(score.teacher_logprob, teacher.gather(-1, own)[:, 0])
    for name, logprobs in (("student_rank", student), ("teacher_rank", teacher)):
        assert getattr(score, name) == (1 + (logprobs > logprobs.gather(-1, own)).sum(-1)).tolist()
    for position, alternatives in enumerate(score.alternatives):
        tops = {i for x in (student, teacher) for i in x[position].topk(3).indices.tolist()}
        assert {token for token, _, _ in alternatives} == tops
        for token, p, q in alternatives:
            assert p == pytest.approx(float(student[position, token].exp()), rel=1e-3, abs=1e-5)
            assert q == pytest.approx(float(teacher[position, token].exp()), rel=1e-3, abs=1e-5)
        best = [max(p, q) for _, p, q in alternatives]
        assert best == sorted(best, reverse=True)


@pytest.mark.parametrize("index", [0, 5])
def test_variants_read_the_same_y_behind_other_sentences(
    scores, graded, layout, tiny_checkpoint, other_checkpoint, index
):
    rollout, score = graded[index].rollout, scores[index, 0]
    actual = build_pair(rollout, layout, BUDGET)
    said = layout.without_eot(rollout.y)
    texts = {
        "P_1" if rollout.r == 0 else "P_0": layout.phrases.text(1 - rollout.r),
        "none": "",
        "neutral": NEUTRAL,
    }
    assert set(score.variants) == set(texts)
    student = full_logprobs(tiny_checkpoint, actual.student)
    teacher = full_logprobs(other_checkpoint, actual.teacher)
    for name, text in texts.items():
        cue = layout.tokenizer.encode(f"\n\n{text}\n\n", add_special_tokens=False)
        ids = rollout.chat + said + cue + rollout.y
        other = full_logprobs(other_checkpoint, replace(actual.teacher, ids=ids, start=len(ids) - len(rollout.y)))
        kl, moved = ((p.exp() * (p - other)).sum(-1) for p in (student, teacher))
        own = other.gather(-1, torch.tensor(rollout.y)[:, None])[:, 0]
        variant = score.variants[name]
        for values, expected in ((variant.kl, kl), (variant.moved, moved), (variant.logprob, own)):
            torch.testing.assert_close(torch.tensor(values).double(), expected, rtol=2e-3, atol=2e-5)


def test_without_compare_only_the_cue_of_training_is_read(make_scorer, graded, scores):
    scorer = make_scorer(compare=False)
    for batch in scorer.score(scorer.items(graded)):
        for one in batch:
            assert one.variants == {}
            assert one.kl == pytest.approx(scores[one.key].kl, rel=1e-4, abs=1e-6)


def test_scores_do_not_depend_on_the_size_of_batches_and_chunks(make_scorer, graded, scores, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 5000)
    scorer = make_scorer(tokens_per_micro_batch=1)
    batches = list(scorer.score(scorer.items(graded)))
    assert [len(batch) for batch in batches] == [1] * len(graded)
    for (one,) in batches:
        assert one.kl == pytest.approx(scores[one.key].kl, rel=1e-4, abs=1e-6)
        assert one.student_rank == scores[one.key].student_rank


def test_packed_passes_give_the_same_scores(make_scorer, graded, scores):
    scorer, rows = make_scorer(packing="1", tokens_per_micro_batch=1000), []
    for model in (scorer.student.model, scorer.teacher.model):
        model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0]))
    batches = list(scorer.score(scorer.items(graded)))
    assert max(map(len, batches)) > 1 and set(rows) == {1}
    assert sum(map(len, batches)) == len(scores)
    for one in (one for batch in batches for one in batch):
        expected = scores[one.key]
        assert one.kl == pytest.approx(expected.kl, rel=1e-3, abs=1e-6)
        assert one.teacher_logprob == pytest.approx(expected.teacher_logprob, rel=1e-4, abs=1e-5)
        assert one.variants.keys() == expected.variants.keys()
        for name, variant in one.variants.items():
            assert variant.kl == pytest.approx(expected.variants[name].kl, rel=1e-3, abs=1e-6)


def test_batches_keep_to_the_tokens_of_their_longest_teacher_sequence(make_scorer, graded):
    scorer = make_scorer()
    items = scorer.items(graded)
    assert len(list(scorer.score(items))) > 2
    for item in items:
        assert item.longest >= max(len(pair.teacher.ids) for pair in item.others.values())


LONG = "a b c d e f g h i j"


@pytest.mark.parametrize(
    ("phrases", "neutral"), [(("wrong", LONG), "again"), ((LONG, "right"), "again"), (("wrong", "right"), LONG)]
)
def test_all_variants_supervise_the_same_tokens_where_the_budget_is_short(
    make_scorer, graded, layout, phrases, neutral
):
    other = Layout(layout.tokenizer, PhraseSet("other", *phrases), layout.prompt, layout.eot_ids)
    settings = {"layout": other, "variants": Variants.open(other, neutral)}
    whole = make_scorer(**settings).items(graded[:1])[0]
    scorer = make_scorer(max_teacher_tokens=whole.longest - 5, **settings)
    item = scorer.items(graded[:1])[0]
    assert 0 < len(item.pair.targets) < len(whole.pair.targets)
    for variant in (item.pair, *item.others.values()):
        assert variant.targets == item.pair.targets
        assert len(variant.teacher.ids) <= scorer.max_teacher_tokens


def test_responses_without_room_or_with_a_token_unknown_to_the_teacher_are_left_out(make_scorer, graded):
    assert make_scorer(max_teacher_tokens=len(graded[0].rollout.chat)).items(graded) == []
    largest = max(graded[0].rollout.y)
    assert make_scorer(teacher_vocab=largest).items(graded[:1]) == []


def test_broken_weights_are_named(make_scorer, graded):
    scorer = make_scorer()
    scorer.teacher.model.get_output_embeddings().weight.data[3] = torch.nan
    with pytest.raises(UserError, match="is not finite: one of them has broken weights"):
        list(scorer.score(scorer.items(graded)))


def test_records_survive_their_file(scores):
    for score in scores.values():
        restored = ScoredResponse.from_line(score.as_line())
        assert restored.ids == score.ids and restored.tokens == score.tokens
        assert restored.kl == pytest.approx(score.kl, abs=1e-5)
        assert restored.variants.keys() == score.variants.keys()
        assert ScoredResponse.from_line(restored.as_line()) == restored


def test_details_with_biases_and_changed_logits(monkeypatch):
    """Soft-capped and scaled logits, biases, heads padded differently, chunks of two tokens."""
    generator = torch.Generator().manual_seed(0)
    hidden = [torch.randn(5, 8, generator=generator) for _ in range(2)]
    heads = [
        LMHead(torch.randn(vocab, 8, generator=generator), torch.randn(vocab, generator=generator), vocab, None, t)
        for vocab, t in ((23, LogitTransform(0.5, cap=3.0)), (20, LogitTransform(2.0)))
    ]
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 40)
    targets = torch.tensor([3, 19, 0, 7, 7])
    details = token_details(hidden[0], heads[0], hidden[1], heads[1], targets, count=4)
    bias = [head.bias for head in heads]
    raw = [h @ head.weight.T + b for h, head, b in zip(hidden, heads, bias, strict=True)]
    logits = [3.0 * torch.tanh(0.5 * raw[0] / 3.0), 2.0 * raw[1]]
    student, teacher = (x[:, :20].double().log_softmax(-1) for x in logits)
    for position, detail in enumerate(details):
        own = int(targets[position])
        assert detail.student_rank == 1 + int((student[position] > student[position, own]).sum())
        assert detail.teacher_rank == 1 + int((teacher[position] > teacher[position, own]).sum())
        tops = {i for x in (student, teacher) for i in x[position].topk(4).indices.tolist()}
        assert {token for token, _, _ in detail.alternatives} == tops
        for token, p, q in detail.alternatives:
            assert p == pytest.approx(float(student[position, token].exp()), rel=1e-4)
            assert q == pytest.approx(float(teacher[position, token].exp()), rel=1e-4)
