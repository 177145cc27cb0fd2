"""What is checked before the first step, on a few short responses, so that a run fails now and not after hours.

Each check is a property that must hold whatever the model: see the sentences below. PREFLIGHT=0 skips all of them.
"""

import os
from dataclasses import dataclass

import torch

from opsd.engine import Engine
from opsd.metrics import TokenMetrics
from opsd.monitors import GAP_LIMIT
from opsd.pairs import SequencePair, build_pair
from opsd.rollouts import Rollout
from opsd.run import Run
from srt.common.errors import UserError
from srt.contract import metrics as names
from srt.contract.layout import Layout, TokenSequence
from srt.contract.provenance import read_metadata
from srt.contract.seeds import sample_seed
from srt.sampling.base import SampleRequest, sample_all

RESPONSES, RESPONSE_TOKENS = 8, 64
ANSWER = "zqxanswer: 1 + 2 = 3.\n\n    indented, if 0 < x\n\n\\boxed{3}"  # what templates like to trim or escape
SKIP = "PREFLIGHT=0 skips this check"


@dataclass(frozen=True)
class Limits:
    """What counts as 0, in nats per token. On a GPU, matrix products are bf16 and vLLM has its own kernels."""

    kl: float
    logprob_gap: float


ON_GPU = Limits(kl=2e-3, logprob_gap=GAP_LIMIT)
ON_CPU = Limits(kl=1e-5, logprob_gap=1e-3)


def preflight(run: Run, engine: Engine) -> None:
    """Raises UserError, in one sentence, for the first check that fails."""
    if not run.config.preflight:
        return
    check_template(run.layout, run.config.student_model)
    pairs = _sample_pairs(run, engine)
    if not pairs:
        return  # there is no response, or none that can be scored; the first step says what to do
    limits = ON_GPU if torch.cuda.is_available() else ON_CPU
    with_cue = TokenMetrics(engine.score(pairs)).means()
    findings = []
    # Later the student has moved away from its teacher, as another TEACHER_MODEL always has.
    if engine.start_step == 0 and run.config.teacher_model == run.config.student_model:
        without_cue = TokenMetrics(engine.score([_without_cue(pair) for pair in pairs])).means()
        findings.append(_check_kl(without_cue[names.KL], with_cue[names.KL], limits))
    findings.append(_check_sampler(with_cue[names.LOGPROB_GAP], limits))
    print(f"preflight: {'; '.join(findings)}")


# The chat template ----------------------------------------------------------------------------------------


def check_template(layout: Layout, model: str) -> None:
    """Raises UserError when the template is not that of the SRT data, or changes what an assistant says."""
    stored, actual = (read_metadata(model) or {}).get("prompt_probe"), layout.prompt_probe()
    if stored is not None and stored != actual:
        same = len(os.path.commonprefix([stored, actual]))
        here, there = (text[max(0, same - 10) :][:100] for text in (actual, stored))
        thinking = ("<think>" in stored) != ("<think>" in actual) or ("</think>" in stored) != (
            "</think>" in actual
        )
        what = "puts another thinking mode into its prompts" if thinking else "renders prompts differently"
        raise UserError(
            f"{model}: its chat template {what} than when the SRT data was made ({here!r} instead of {there!r}); "
            f"restore the template and CHAT_TEMPLATE_KWARGS of that time, or make the data again ({SKIP})"
        )
    try:
        rendered = layout.render_answer(ANSWER)
    except UserError:  # a template for prompts only, which Phase 2 does not mind
        return
    if ANSWER not in rendered:
        start = rendered.find("zqxanswer")
        found = "drops it" if start < 0 else f"writes {rendered[start : start + len(ANSWER)]!r}"
        raise UserError(
            f"{model}: its chat template changes what an assistant says (of {ANSWER!r} it {found}), so chats with "
            "the finished model would not see the text that it was trained on; correct chat_template.jinja "
            f"({SKIP})"
        )


# Student, teacher and sampler -----------------------------------------------------------------------------


def _sample_pairs(run: Run, engine: Engine) -> list[SequencePair]:
    """The beginnings of responses to the first problems, each with the cue for a wrong one."""
    problems, requests = [], []
    for position, problem in enumerate(run.train_set.problems[:RESPONSES]):
        chat = run.layout.chat(problem.x)
        room = min(RESPONSE_TOKENS, run.max_total_tokens - len(chat))
        if room > 0:
            seed = sample_seed(run.config.seed, "preflight", 0, position, problem.id)
            problems.append(problem)
            requests.append(SampleRequest(chat, seed, room))
    if not requests:
        return []
    with engine.sampling() as sampler:
        samples = sample_all(sampler, requests)
    rollouts = [
        Rollout(problem, request.prompt_ids, sample.token_ids, sample.logprobs or [], sample.finish_reason, r=0)
        for problem, request, sample in zip(problems, requests, samples, strict=True)
    ]
    pairs = [build_pair(rollout, run.layout, run.max_teacher_tokens) for rollout in rollouts]
    return [pair for pair in pairs if run.can_score(pair)]


def _without_cue(pair: SequencePair) -> SequencePair:
    """The teacher's sequence without the first y and the cue: what remains is the student's."""
    student, teacher = pair.student, pair.teacher
    rest = TokenSequence(teacher.ids[: student.start] + teacher.ids[teacher.start :], student.start)
    if rest != student:
        raise UserError(
            "preflight: the teacher's sequence does not end with the student's response, token for token, so they "
            f"would be compared at different positions; this is a fault of this program ({SKIP})"
        )
    return SequencePair(pair.rollout, student, rest)


def _check_sampler(gap: float, limits: Limits) -> str:
    if not gap <= limits.logprob_gap:
        raise UserError(
            f"preflight: sampler and trainer disagree on the log-probs of sampled tokens by {gap:.4f} nats "
            f"(expected at most {limits.logprob_gap}), so responses are not the student's own: the sampler has "
            "other weights, another precision or other positions; with ENGINE=local, SAMPLER=transformers samples "
            f"from the student itself ({SKIP})"
        )
    return f"sampler and trainer agree to {gap:.1e} nats"


def _check_kl(without_cue: float, with_cue: float, limits: Limits) -> str:
    if not without_cue <= limits.kl:
        raise UserError(
            "preflight: without the cue, student and teacher read the same tokens with the same weights, but the "
            f"KL is {without_cue:.2g} nats per token (expected at most {limits.kl:g}): positions are shifted, "
            f"weights were lost or changed, or dropout is on ({SKIP})"
        )
    if not with_cue > limits.kl:
        raise UserError(
            f"preflight: with the cue the KL of student and teacher is only {with_cue:.2g} nats per token: what "
            "the teacher is told does not reach its distributions, and there is nothing to learn from it; check "
            f"that STUDENT_MODEL is an SRT model, and its control phrases ({SKIP})"
        )
    return f"KL {without_cue:.1e} without the cue, {with_cue:.4f} with it"
