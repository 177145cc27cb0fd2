"""exact_kl against a naive float64 reference: full logits, textbook formulas, autograd."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from opsd.kl import KLConfig, exact_kl
from opsd.kl import gradients as kl_gradients
from opsd.kl import lm_head as kl_head

KINDS = ("reverse", "forward", "mixed", "jsd")
NAMES = ("student_hidden", "student_head", "student_bias", "teacher_hidden", "teacher_head", "teacher_bias")


def make_case(tokens=13, vocab=37, student_width=8, teacher_width=8, scale=1.0, dtype=torch.float64, seed=0):
    """Two unrelated models; `scale` is about the standard deviation of their logits."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    case = {
        "student_hidden": normal(tokens, student_width),
        "student_head": normal(vocab, student_width) * scale / math.sqrt(student_width),
        "teacher_hidden": normal(tokens, teacher_width),
        "teacher_head": normal(vocab, teacher_width) * scale / math.sqrt(teacher_width),
        "weights": normal(tokens).abs() + 0.1,
    }
    return {name: x.to(dtype) for name, x in case.items()}


def near_equal_case(relative, dtype, tokens=24, vocab=4000, width=64, scale=4.0):
    """The teacher is the student, off by `relative`: the distributions of a student early in Phase 2."""
    case = make_case(tokens, vocab, width, width, scale)
    noise = torch.Generator().manual_seed(1)
    for part in ("hidden", "head"):
        student = case[f"student_{part}"]
        shift = torch.randn(student.shape, generator=noise, dtype=torch.float64)
        case[f"teacher_{part}"] = student * (1.0 + relative * shift)
    return {name: x.to(dtype) for name, x in case.items()}


def require_grad(case, names=("student_hidden", "student_head")):
    return {name: x.detach().clone().requires_grad_(name in names) for name, x in case.items()}


def naive_token_kl(student_logits, teacher_logits, options):
    """The divergences as the textbooks write them, in probabilities, over whatever logits are given."""
    log_p = torch.log_softmax(student_logits / options.temperature, -1)
    log_q = torch.log_softmax(teacher_logits / options.temperature, -1)
    if options.topk:
        k = options.topk
        ranked = (teacher_logits if options.topk_support == "teacher" else student_logits).argsort(-1)
        kept, rest = ranked[:, -k:], ranked[:, :-k]
        log_p_kept, log_q_kept = log_p.gather(1, kept), log_q.gather(1, kept)
        if options.topk_tail:
            log_p = torch.cat([log_p_kept, log_p.gather(1, rest).exp().sum(1, keepdim=True).log()], 1)
            log_q = torch.cat([log_q_kept, log_q.gather(1, rest).exp().sum(1, keepdim=True).log()], 1)
        else:
            log_p = (log_p_kept.exp() / log_p_kept.exp().sum(1, keepdim=True)).log()
            log_q = (log_q_kept.exp() / log_q_kept.exp().sum(1, keepdim=True)).log()
    p, q = log_p.exp(), log_q.exp()
    reverse = (p * (log_p - log_q)).sum(-1)
    forward = (q * (log_q - log_p)).sum(-1)
    if options.kind == "jsd":
        beta = options.jsd_beta
        log_m = (beta * q + (1 - beta) * p).log()
        return beta * (q * (log_q - log_m)).sum(-1) + (1 - beta) * (p * (log_p - log_m)).sum(-1)
    share = {"reverse": 0.0, "forward": 1.0, "mixed": options.mixed_weight}[options.kind]
    return share * forward + (1 - share) * reverse


def naive(case, options=KLConfig(), vocab_size=None):  # noqa: B008 - frozen
    """Loss, per-token values, gradients and both logits in float64, from the very numbers `case` holds."""
    x = {name: v.detach().double() for name, v in case.items() if v.is_floating_point()}
    leaves = [x[name].requires_grad_() for name in NAMES[:3] if name in x]
    logits = []
    for role in ("student", "teacher"):
        full = x[f"{role}_hidden"] @ x[f"{role}_head"].T
        if f"{role}_bias" in x:
            full = full + x[f"{role}_bias"]
        logits.append(full[:, :vocab_size])
    token_kl = naive_token_kl(*logits, options)
    loss = (x["weights"] * token_kl).sum()
    return loss.detach(), token_kl.detach(), torch.autograd.grad(loss, leaves), [y.detach() for y in logits]


def relative_error(got, wanted):
    return ((got.double() - wanted).norm() / wanted.norm()).item()


def run(case, **arguments):
    case = require_grad(case, NAMES[:3])
    out = exact_kl(**case, **arguments)
    out.loss.backward()
    return out, [case[name].grad for name in NAMES[:3] if name in case]


def assert_matches(case, options=KLConfig(), tolerance=1e-10, vocab_size=None, **arguments):  # noqa: B008
    out, gradients = run(case, options=options, vocab_size=vocab_size, **arguments)
    loss, token_kl, wanted, _ = naive(case, options, vocab_size)
    assert relative_error(out.loss, loss) <= tolerance
    assert relative_error(out.token_kl, token_kl) <= max(tolerance, 2e-7)  # always reported in fp32
    assert len(gradients) == len(wanted)
    for got, want in zip(gradients, wanted, strict=True):
        assert relative_error(got, want) <= tolerance
    return out, gradients


# Value and both gradients


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "topk",
    [
        {},
        {"topk": 5},
        {"topk": 5, "topk_support": "student"},
        {"topk": 5, "topk_tail": False},
        {"topk": 5, "topk_support": "student", "topk_tail": False},
        {"topk": 1},
        {"topk": 36},
    ],
    ids=lambda topk: "-".join(str(x) for x in topk.values()) or "exact",
)
def test_every_option_matches_the_reference_in_float64(kind, temperature, topk):
    options = KLConfig(kind, mixed_weight=0.3, jsd_beta=0.2, temperature=temperature, **topk)
    assert_matches(make_case(scale=3.0), options, chunk_tokens=5)


def test_default_is_the_reverse_kl_of_student_to_teacher_by_hand():
    # One row, two tokens, hidden = 1: p = (1/2, 1/2), q = (1/4, 3/4).
    one = torch.ones(1, 1)
    out = exact_kl(one, torch.zeros(2, 1), one, torch.tensor([[0.0], [math.log(3.0)]]), torch.ones(1))
    assert out.loss.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-6)


def test_gradient_agrees_with_finite_differences():
    case = make_case(tokens=3, vocab=7, student_width=4)
    fixed = {name: case[name] for name in ("teacher_hidden", "teacher_head", "weights")}

    def loss(hidden, head):
        return exact_kl(hidden, head, **fixed, chunk_tokens=2).loss

    leaves = [case[name].requires_grad_() for name in ("student_hidden", "student_head")]
    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [3.0, 30.0])
@pytest.mark.parametrize("topk", [0, 64])
def test_far_apart_distributions_in_fp32(kind, topk, scale):
    # At scale 30 probabilities underflow fp32, their ratios overflow it, and each row is nearly certain.
    case = make_case(24, 4000, 64, 64, scale, torch.float32)
    assert_matches(case, KLConfig(kind, topk=topk), tolerance=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("topk", [0, 64])
@pytest.mark.parametrize("relative", [1e-3, 3e-3, 1e-2])
def test_near_equal_distributions_in_fp32(kind, topk, relative):
    case = near_equal_case(relative, torch.float32)
    out, _ = assert_matches(case, KLConfig(kind, topk=topk), tolerance=1e-3)
    assert (out.token_kl >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("relative", [3e-3, 1e-2])
def test_near_equal_distributions_with_bf16_inputs(kind, relative):
    # Gradients come back rounded to bf16 (2^-9 at most, relative), the value does not.
    case = near_equal_case(relative, torch.bfloat16)
    out, gradients = run(case, options=KLConfig(kind))
    loss, token_kl, wanted, _ = naive(case, KLConfig(kind))
    assert relative_error(out.loss, loss) <= 1e-3
    assert relative_error(out.token_kl, token_kl) <= 1e-3
    for got, want in zip(gradients, wanted, strict=True):
        assert got.dtype == torch.bfloat16
        assert relative_error(got, want) <= 3e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_far_apart_distributions_with_half_inputs(kind, dtype):
    case = make_case(24, 4000, 64, 64, 3.0, dtype)
    out, gradients = run(case, options=KLConfig(kind))
    loss, _, wanted, _ = naive(case, KLConfig(kind))
    assert relative_error(out.loss, loss) <= 1e-5
    for got, want in zip(gradients, wanted, strict=True):
        assert got.dtype == dtype
        assert relative_error(got, want) <= 3e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [3.0, 30.0])
def test_identical_models_have_no_divergence(kind, scale):
    case = make_case(24, 4000, 64, 64, scale, torch.float32)
    case |= {"teacher_hidden": case["student_hidden"], "teacher_head": case["student_head"]}
    out, gradients = run(case, options=KLConfig(kind))
    assert out.token_kl.abs().max() <= 1e-7
    assert all(x.abs().max() <= 1e-6 for x in gradients)
    assert out.top1_agreement.all()


@pytest.mark.parametrize("kind", KINDS)
def test_almost_identical_models_are_never_negative_beyond_rounding(kind):
    case = near_equal_case(1e-6, torch.float32)
    out, _ = run(case, options=KLConfig(kind))
    assert out.token_kl.min() >= -1e-12
    assert out.token_kl.max() <= 1e-9


# Chunks and memory


@pytest.mark.parametrize("chunk_tokens", [1, 4, 12, 13, 1000, None])
def test_chunk_size_does_not_matter(chunk_tokens):
    case = make_case(tokens=13)
    targets = torch.arange(13)
    whole, whole_gradients = run(case, targets=targets, chunk_tokens=13)
    out, gradients = run(case, targets=targets, chunk_tokens=chunk_tokens)
    for name in ("token_kl", "student_entropy", "teacher_entropy", "student_logprob", "teacher_logprob"):
        torch.testing.assert_close(getattr(out, name), getattr(whole, name))
    assert torch.equal(out.top1_agreement, whole.top1_agreement)
    torch.testing.assert_close(out.loss, whole.loss)
    torch.testing.assert_close(gradients, whole_gradients)


class LargestTensor(TorchDispatchMode):
    """Records the most elements any operation's result had."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return result


def largest_in(function):
    with LargestTensor() as largest:
        function()
    return largest.numel


@pytest.mark.parametrize(
    "options",
    [KLConfig(), KLConfig("jsd"), KLConfig("mixed", temperature=2.0), KLConfig(topk=4)],
    ids=lambda options: f"{options.kind}-{options.topk}",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_holds_the_logits_of_all_rows(options, dtype):
    tokens, vocab, width, chunk = 96, 512, 4, 8
    case = make_case(tokens, vocab, width, width, dtype=dtype)
    allowed = max(chunk * vocab, vocab * width, tokens * width)
    assert largest_in(lambda: naive(case)) >= tokens * vocab  # the measure sees what it should
    targets = torch.zeros(tokens, dtype=torch.long)
    assert largest_in(lambda: run(case, options=options, targets=targets, chunk_tokens=chunk)) <= allowed


def test_default_chunk_stays_within_the_documented_budget(monkeypatch):
    monkeypatch.setattr(kl_head, "CHUNK_ELEMENTS", 4096)
    case = make_case(96, 512, 4, 4, dtype=torch.bfloat16)
    assert largest_in(lambda: run(case)) == 4096
    monkeypatch.setattr(kl_head, "CHUNK_ELEMENTS", 300)  # less than one row: rows one by one, heads in pieces
    with LargestTensor() as largest:
        out, gradients = run(case, extras=False)
    assert largest.numel == 512 * 4
    loss, _, wanted, _ = naive(case)
    assert relative_error(out.loss, loss) <= 1e-5
    assert all(relative_error(x, y) <= 3e-3 for x, y in zip(gradients, wanted, strict=True))


# Weights


def test_zero_weight_rows_contribute_nothing_even_when_not_finite():
    case = make_case(tokens=9)
    case["weights"][[0, 4, 8]] = 0.0
    targets = torch.arange(9)
    kept = torch.tensor([1, 2, 3, 5, 6, 7])
    per_row = ("student_hidden", "teacher_hidden", "weights")
    only_kept = {name: x[kept] if name in per_row else x for name, x in case.items()}
    wanted, (wanted_hidden, wanted_head) = run(only_kept, targets=targets[kept], chunk_tokens=4)

    case["student_hidden"][0], case["student_hidden"][4] = math.inf, math.nan
    case["teacher_hidden"][8] = -math.inf
    targets[4] = -100
    out, (hidden_gradient, head_gradient) = run(case, targets=targets, chunk_tokens=4)
    assert torch.equal(out.loss, wanted.loss)
    assert torch.equal(head_gradient, wanted_head)
    assert torch.equal(hidden_gradient[kept], wanted_hidden)
    assert (hidden_gradient[[0, 4, 8]] == 0).all()
    for name in ("token_kl", "student_entropy", "teacher_entropy", "student_logprob", "top1_agreement"):
        assert torch.equal(getattr(out, name)[kept], getattr(wanted, name))
        assert (getattr(out, name)[[0, 4, 8]] == 0).all()


def test_weights_multiply_rows_and_may_be_negative():
    case = make_case()
    case["weights"] = torch.linspace(-1.0, 1.9, 13, dtype=torch.float64)
    assert_matches(case)


@pytest.mark.parametrize("tokens", [0, 3])
def test_nothing_to_learn_from_gives_a_differentiable_zero(tokens):
    case = make_case(tokens=tokens)
    case["weights"].zero_()
    out, gradients = run(case, targets=torch.zeros(tokens, dtype=torch.long))
    assert out.loss.item() == 0.0
    assert out.token_kl.shape == out.student_logprob.shape == out.top1_agreement.shape == (tokens,)
    assert all((x == 0).all() for x in gradients)
    assert [x.shape for x in gradients] == [case["student_hidden"].shape, case["student_head"].shape]


# The graph


def test_incoming_gradient_scales_and_calls_accumulate():
    case = make_case()
    _, once = run(case)
    leaves = require_grad(case)
    loss = exact_kl(**leaves).loss
    (loss * -3.0 + 1.0).backward(retain_graph=True)
    for name, gradient in zip(("student_hidden", "student_head"), once, strict=True):
        torch.testing.assert_close(leaves[name].grad, -3.0 * gradient)
    (loss * 5.0).backward()
    for name, gradient in zip(("student_hidden", "student_head"), once, strict=True):
        torch.testing.assert_close(leaves[name].grad, 2.0 * gradient)


def test_loss_scale_keeps_fp16_gradients_from_vanishing():
    case = make_case(dtype=torch.float16)
    case["weights"] = torch.full((13,), 1e-7)
    leaves = require_grad(case)
    (exact_kl(**leaves).loss * 1e7).backward()
    case["weights"] = torch.ones(13)
    _, _, (wanted, _), _ = naive(case)
    assert relative_error(leaves["student_hidden"].grad, wanted) <= 3e-3


@pytest.mark.parametrize("frozen", ["student_head", "student_hidden"])
def test_one_side_frozen(frozen):
    trained = {"student_head": "student_hidden", "student_hidden": "student_head"}[frozen]
    case = make_case()
    _, both = run(case)
    leaves = require_grad(case, (trained,))
    exact_kl(**leaves).loss.backward()
    assert leaves[frozen].grad is None
    torch.testing.assert_close(leaves[trained].grad, both[("student_hidden", "student_head").index(trained)])


def test_no_gradient_work_without_a_graph(monkeypatch):
    def fail(*_):
        raise AssertionError("a gradient was formed")

    monkeypatch.setattr(kl_gradients.Gradients, "add", fail)
    case = make_case()
    with torch.no_grad():
        assert not exact_kl(**require_grad(case)).loss.requires_grad
    out = exact_kl(**case)
    assert not out.loss.requires_grad
    assert relative_error(out.loss, naive(case)[0]) <= 1e-10


def test_tied_head_collects_the_gradient_of_both_uses():
    case = make_case()
    embed = case["student_head"].clone().requires_grad_()
    ids = torch.arange(13) % 5
    rest = {name: case[name] for name in ("teacher_hidden", "teacher_head", "weights")}
    exact_kl(torch.tanh(embed[ids]), embed, **rest).loss.backward()

    naive_embed = case["student_head"].clone().requires_grad_()
    teacher_logits = rest["teacher_hidden"] @ rest["teacher_head"].T
    token_kl = naive_token_kl(torch.tanh(naive_embed[ids]) @ naive_embed.T, teacher_logits, KLConfig())
    (rest["weights"] * token_kl).sum().backward()
    assert relative_error(embed.grad, naive_embed.grad) <= 1e-10


def test_teacher_receives_no_gradient():
    case = make_case()
    case |= {"student_bias": torch.ones(37).double(), "teacher_bias": torch.ones(37).double()}
    leaves = require_grad(case, NAMES)
    out = exact_kl(**leaves)
    out.loss.backward()
    assert all((leaves[name].grad is None) == name.startswith("teacher") for name in NAMES)
    assert not any(x.requires_grad for x in (out.token_kl, out.student_entropy, out.teacher_entropy))
    for name in NAMES[:3]:  # even where nothing else is trained
        leaves[name].requires_grad_(False)
    assert not exact_kl(**leaves).loss.requires_grad


def test_second_derivative_is_refused():
    leaves = require_grad(make_case())
    loss = exact_kl(**leaves).loss
    with pytest.raises(RuntimeError, match="exact_kl cannot be differentiated twice"):
        torch.autograd.grad(loss, leaves["student_hidden"], create_graph=True)


def test_autocast_does_not_touch_the_products():
    case = near_equal_case(1e-2, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_matches(case, tolerance=1e-3)


# Heads


def test_models_may_differ_in_width_and_have_biases():
    case = make_case(student_width=8, teacher_width=5)
    noise = torch.Generator().manual_seed(2)
    for role in ("student", "teacher"):
        case[f"{role}_bias"] = torch.randn(37, generator=noise, dtype=torch.float64)
    assert_matches(case, KLConfig(temperature=1.7), chunk_tokens=4)


@pytest.mark.parametrize("fill", [1e3, math.nan])
def test_padding_rows_take_no_part(fill):
    case = make_case(vocab=37)
    wanted, (wanted_hidden, wanted_head) = run(case)
    padded = dict(case)
    for role, rows in (("student", 3), ("teacher", 11)):
        padding = torch.full((rows, 8), fill, dtype=torch.float64)
        padded[f"{role}_head"] = torch.cat([case[f"{role}_head"], padding])
        padded[f"{role}_bias"] = torch.cat([torch.zeros(37), torch.full((rows,), fill)]).double()
    out, (hidden_gradient, head_gradient, bias_gradient) = run(padded, vocab_size=37)
    torch.testing.assert_close(out.loss, wanted.loss)
    torch.testing.assert_close(hidden_gradient, wanted_hidden)
    torch.testing.assert_close(head_gradient[:37], wanted_head)
    assert (head_gradient[37:] == 0).all() and (bias_gradient[37:] == 0).all()
    assert torch.equal(out.top1_agreement, wanted.top1_agreement)
    torch.testing.assert_close(out.student_entropy, wanted.student_entropy)


@pytest.mark.parametrize(
    "dtypes",
    [
        {"teacher_hidden": torch.bfloat16, "teacher_head": torch.bfloat16},
        {"student_hidden": torch.bfloat16},
        {"student_head": torch.bfloat16, "teacher_head": torch.float16},
    ],
    ids=["bf16 teacher", "bf16 hidden", "three dtypes"],
)
def test_mixed_dtypes(dtypes):
    case = {name: x.to(dtypes.get(name, torch.float32)) for name, x in make_case(scale=3.0).items()}
    out, gradients = run(case)
    loss, _, wanted, _ = naive(case)
    assert out.loss.dtype == out.token_kl.dtype == torch.float32
    assert relative_error(out.loss, loss) <= 1e-5
    for name, got, want in zip(NAMES, gradients, wanted, strict=False):
        assert got.dtype == case[name].dtype
        assert relative_error(got, want) <= (1e-5 if got.dtype == torch.float32 else 3e-3)


def test_head_gradient_is_accumulated_in_fp32():
    # 512 equal rows one by one: a bf16 sum would stop growing at 256 times its first term.
    case = make_case(tokens=1, dtype=torch.bfloat16)
    for name in ("student_hidden", "teacher_hidden", "weights"):
        case[name] = torch.cat([case[name]] * 512)
    _, (_, head_gradient) = run(case, chunk_tokens=1)
    assert relative_error(head_gradient, naive(case)[2][1]) <= 3e-3


# Extras


@pytest.mark.parametrize(
    "options", [KLConfig(), KLConfig("jsd", temperature=3.0), KLConfig(topk=4)], ids=lambda o: o.kind
)
def test_extras_are_of_the_full_vocabulary_at_temperature_one(options):
    case = make_case(scale=3.0)
    targets = (torch.arange(13) * 5 % 37).int()
    out = exact_kl(**case, options=options, targets=targets, chunk_tokens=5)
    student, teacher = naive(case)[3]
    for name, logits in (("student", student), ("teacher", teacher)):
        probs = logits.softmax(-1)
        wanted = -(probs * probs.log()).sum(-1).float()
        torch.testing.assert_close(getattr(out, f"{name}_entropy"), wanted)
        wanted = probs.log()[torch.arange(13), targets.long()].float()
        torch.testing.assert_close(getattr(out, f"{name}_logprob"), wanted)
    assert out.top1_agreement.dtype == torch.bool
    assert torch.equal(out.top1_agreement, student.argmax(-1) == teacher.argmax(-1))


def test_agreement_is_not_constant():
    case = near_equal_case(0.1, torch.float32)
    student, teacher = naive(case)[3]
    wanted = student.argmax(-1) == teacher.argmax(-1)
    assert wanted.any() and not wanted.all()
    assert torch.equal(exact_kl(**case).top1_agreement, wanted)


def test_extras_not_asked_for_are_none():
    case = make_case()
    targets = torch.zeros(13, dtype=torch.long)
    assert exact_kl(**case).student_logprob is None and exact_kl(**case).teacher_logprob is None
    out = exact_kl(**case, targets=targets, extras=False)
    names = ("student_entropy", "teacher_entropy", "student_logprob", "teacher_logprob", "top1_agreement")
    assert all(getattr(out, name) is None for name in names)
    assert out.token_kl.dtype == torch.float32
    torch.testing.assert_close(out.token_kl, exact_kl(**case).token_kl)


# Errors


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"kind": "backward"}, "kind is 'backward', expected one of reverse, forward, mixed, jsd"),
        ({"mixed_weight": 1.5}, "mixed_weight is 1.5, expected a number from 0 to 1"),
        ({"mixed_weight": math.nan}, "mixed_weight is nan, expected"),
        ({"jsd_beta": 0.0}, "jsd_beta is 0.0, expected a number strictly between 0 and 1"),
        ({"jsd_beta": 1.0}, "jsd_beta is 1.0, expected a number strictly between 0 and 1"),
        ({"temperature": 0.0}, "temperature is 0.0, expected a positive finite number"),
        ({"temperature": math.inf}, "temperature is inf, expected a positive finite number"),
        ({"topk": -1}, "topk is -1, expected 0 (whole vocabulary) or a positive integer"),
        ({"topk": 2.5}, "topk is 2.5, expected 0"),
        ({"topk_support": "both"}, "topk_support is 'both', expected one of teacher, student"),
        ({"topk": 1, "topk_tail": False}, "topk is 1 with topk_tail=False, expected topk >= 2"),
    ],
    ids=str,
)
def test_bad_options_are_refused(bad, message):
    with pytest.raises(ValueError) as error:
        KLConfig(**bad)
    assert str(error.value).startswith(message)


def test_topk_of_the_whole_vocabulary_is_exact():
    case = make_case()
    wanted = exact_kl(**case)
    for tail in (True, False):
        torch.testing.assert_close(exact_kl(**case, options=KLConfig(topk=50, topk_tail=tail)).loss, wanted.loss)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"student_hidden": torch.ones(1, 13, 8)}, "student_hidden has shape (1, 13, 8), expected two"),
        ({"teacher_head": torch.ones(37)}, "teacher_head has shape (37,), expected two dimensions"),
        (
            {"teacher_hidden": torch.ones(12, 8)},
            "teacher_hidden has shape (12, 8), expected (13, 8): as many",
        ),
        ({"student_head": torch.ones(37, 9)}, "student_head has shape (37, 9), expected (37, 8): the width"),
        ({"teacher_head": torch.ones(37, 9)}, "teacher_head has shape (37, 9), expected (37, 8): the width"),
        ({"student_bias": torch.ones(36)}, "student_bias has shape (36,), expected (37,): one"),
        ({"teacher_bias": torch.ones(36)}, "teacher_bias has shape (36,), expected (37,): one"),
        ({"weights": torch.ones(13, 1)}, "weights has shape (13, 1), expected (13,): one number"),
        ({"weights": torch.ones(13, dtype=torch.long)}, "weights has dtype torch.int64, expected a float"),
        ({"weights": torch.ones(13, requires_grad=True)}, "weights requires a gradient, expected a constant"),
        ({"targets": torch.ones(12).long()}, "targets has shape (12,), expected (13,): one token id"),
        ({"targets": torch.ones(13)}, "targets has dtype torch.float32, expected an integer dtype"),
        ({"targets": torch.full((13,), 37)}, "targets holds 37 in a row of non-zero weight, expected 0"),
        ({"targets": torch.full((13,), -100)}, "targets holds -100 in a row of non-zero weight, expected 0"),
        ({"teacher_head": torch.ones(40, 8)}, "teacher_head has 40 rows, expected the 37 of student_head"),
        ({"vocab_size": 38}, "vocab_size is 38, expected 1 to 37: the rows of the shorter head"),
        ({"vocab_size": 0}, "vocab_size is 0, expected 1 to 37: the rows of the shorter head"),
        ({"chunk_tokens": 0}, "chunk_tokens is 0, expected None or at least 1"),
        ({"teacher_head": torch.ones(37, 8, device="meta")}, "teacher_head is on meta, expected cpu"),
    ],
    ids=lambda x: x[:40] if isinstance(x, str) else "",
)
def test_bad_arguments_are_refused(bad, message):
    with pytest.raises(ValueError) as error:
        exact_kl(**(make_case(dtype=torch.float32) | bad))
    assert str(error.value).startswith(message)


# CUDA


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_matches_the_reference(kind, dtype):
    case = {name: x.cuda() for name, x in near_equal_case(1e-2, dtype).items()}
    targets = torch.zeros(24, dtype=torch.long, device="cuda")
    out, gradients = run(case, options=KLConfig(kind), targets=targets, chunk_tokens=7)
    loss, token_kl, wanted, _ = naive(case, KLConfig(kind))
    assert relative_error(out.loss, loss) <= 1e-3
    assert relative_error(out.token_kl, token_kl) <= 1e-3
    for got, want in zip(gradients, wanted, strict=True):
        assert got.dtype == dtype
        assert relative_error(got, want) <= 5e-3
