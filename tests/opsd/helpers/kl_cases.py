"""Cases of the exact KL and its naive float64 reference: full logits, textbook formulas, autograd."""

import math

import torch

from opsd.kl import IDENTITY, KLConfig, exact_kl

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


def naive_token_kl(student_logits, teacher_logits, config):
    """The divergences as the textbooks write them, in probabilities, over whatever logits are given."""
    log_p = torch.log_softmax(student_logits / config.temperature, -1)
    log_q = torch.log_softmax(teacher_logits / config.temperature, -1)
    if config.topk:
        k = config.topk
        ranked = (teacher_logits if config.topk_support == "teacher" else student_logits).argsort(-1)
        kept, rest = ranked[:, -k:], ranked[:, :-k]
        log_p_kept, log_q_kept = log_p.gather(1, kept), log_q.gather(1, kept)
        if config.topk_tail:
            log_p = torch.cat([log_p_kept, log_p.gather(1, rest).exp().sum(1, keepdim=True).log()], 1)
            log_q = torch.cat([log_q_kept, log_q.gather(1, rest).exp().sum(1, keepdim=True).log()], 1)
        else:
            log_p = (log_p_kept.exp() / log_p_kept.exp().sum(1, keepdim=True)).log()
            log_q = (log_q_kept.exp() / log_q_kept.exp().sum(1, keepdim=True)).log()
    p, q = log_p.exp(), log_q.exp()
    reverse = (p * (log_p - log_q)).sum(-1)
    forward = (q * (log_q - log_p)).sum(-1)
    if config.kind == "jsd":
        beta = config.jsd_beta
        log_m = (beta * q + (1 - beta) * p).log()
        return beta * (q * (log_q - log_m)).sum(-1) + (1 - beta) * (p * (log_p - log_m)).sum(-1)
    share = {"reverse": 0.0, "forward": 1.0, "mixed": config.mixed_weight}[config.kind]
    return share * forward + (1 - share) * reverse


def transformed(logits, transform):
    """The definition: scaled, and capped by tanh where there is a cap."""
    scaled = logits * transform.scale
    return scaled if transform.cap is None else transform.cap * torch.tanh(scaled / transform.cap)


def naive(case, config=KLConfig(), vocab_size=None, transforms=(IDENTITY, IDENTITY)):  # noqa: B008 - frozen
    """Loss, per-token values, gradients and both logits in float64, from the very numbers `case` holds."""
    x = {name: v.detach().double() for name, v in case.items() if v.is_floating_point()}
    leaves = [x[name].requires_grad_() for name in NAMES[:3] if name in x]
    logits = []
    for role, transform in zip(("student", "teacher"), transforms, strict=True):
        full = x[f"{role}_hidden"] @ x[f"{role}_head"].T
        if f"{role}_bias" in x:
            full = full + x[f"{role}_bias"]
        logits.append(transformed(full[:, :vocab_size], transform))
    token_kl = naive_token_kl(*logits, config)
    limited = token_kl if config.clip is None else token_kl.clamp(max=config.clip)
    loss = (x["weights"] * limited).sum()
    return loss.detach(), token_kl.detach(), torch.autograd.grad(loss, leaves), [y.detach() for y in logits]


def relative_error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


def run(case, **arguments):
    case = require_grad(case, NAMES[:3])
    out = exact_kl(**case, **arguments)
    out.loss.backward()
    return out, [case[name].grad for name in NAMES[:3] if name in case]


def assert_matches(case, config=KLConfig(), tolerance=1e-10, vocab_size=None, **arguments):  # noqa: B008
    out, gradients = run(case, config=config, vocab_size=vocab_size, **arguments)
    transforms = [arguments.get(f"{role}_transform", IDENTITY) for role in ("student", "teacher")]
    loss, token_kl, expected, _ = naive(case, config, vocab_size, transforms)
    assert relative_error(out.loss, loss) <= tolerance
    assert relative_error(out.token_kl, token_kl) <= max(tolerance, 2e-7)  # always reported in fp32
    assert len(gradients) == len(expected)
    for actual, reference in zip(gradients, expected, strict=True):
        assert relative_error(actual, reference) <= tolerance
    return out, gradients
