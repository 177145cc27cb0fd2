"""The loss of an update by the paper's formula, naively, and what an update really did."""

import torch

from tests.opsd.helpers.problems import PHRASES


def papers_loss(student, teacher, rollouts, tokenizer):
    """sum_t KL(pi_theta(. | x, y_<t) || pi_SRT(. | x, y, P_r, y_<t)) over all y, divided by their tokens.

    Written from section 2.2 of arXiv:2604.12002: one sequence after the other, the logits of the whole
    vocabulary, float64. Also returns the terms of the sum, a list for each rollout.
    """
    token_kl = []
    for rollout in rollouts:
        said = [token for token in rollout.y if token != tokenizer.eos_token_id]
        cue = tokenizer.encode("\n\n" + PHRASES[rollout.r] + "\n\n")
        log_probs = []
        for model, before in ((student, rollout.chat), (teacher, rollout.chat + said + cue)):
            logits = model(input_ids=torch.tensor([before + rollout.y])).logits[0].double()
            log_probs.append(logits[len(before) - 1 : -1].log_softmax(-1))
        log_p, log_q = log_probs
        token_kl.append((log_p.exp() * (log_p - log_q)).sum(-1))
    tokens = sum(len(rollout.y) for rollout in rollouts)
    return sum(kl.sum() for kl in token_kl) / tokens, [kl.tolist() for kl in token_kl]


def gradients_of(opened, pairs):
    """The result of an update, and the clipped gradients that it was made with."""
    gradients = {}

    def keep(*_):
        parameters = opened.engine.student.model.named_parameters()
        gradients.update({name: parameter.grad.clone() for name, parameter in parameters})

    opened.engine.optimizer_step.optimizer.register_step_pre_hook(keep)
    return opened.engine.optimizer_step.run(pairs), gradients
