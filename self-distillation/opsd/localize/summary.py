"""All analyses of one pair of models, and their table in the terminal."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from opsd.localize.config import ModelPair
from opsd.localize.copying import copy_diagnostic
from opsd.localize.first_error import first_error
from opsd.localize.mass import mass_by_rank
from opsd.localize.phrase_effect import phrase_effect
from opsd.localize.records import ScoredResponse
from opsd.localize.token_text import token_text
from srt.common.console import print_summary
from srt.contract.layout import Layout

IN_NATS = "KL per token"  # the other fractions of the headline are shares


def summarize(pair: ModelPair, scored: Sequence[ScoredResponse], layout: Layout, seed: int) -> dict[str, Any]:
    """The pair's part of localization.json; of a token it has KL and log-probs, and scores.jsonl the rest."""
    phrases = [layout.phrases.text(r) for r in (0, 1)]

    def text_of(token: int) -> str:
        return token_text(layout.tokenizer, token)

    return asdict(pair) | {
        "phrases": {"P_0": phrases[0], "P_1": phrases[1]},
        "responses": len(scored),
        "wrong": sum(response.r == 0 for response in scored),
        "right": sum(response.r == 1 for response in scored),
        "cut_off": sum(response.finish_reason == "length" for response in scored),
        "figure_4": {f"r{r}": mass_by_rank(scored, r, layout.eot_ids) for r in (0, 1)},
        "copying": {f"r{r}": copy_diagnostic(scored, r) for r in (0, 1)},
        "phrase_effect": {f"r{r}": phrase_effect(scored, r, text_of) for r in (0, 1)},
        "first_error": {f"r{r}": first_error(scored, r, phrases, seed) for r in (0, 1)},
        "tokens": [
            {
                "id": response.id,
                "response": response.response,
                "r": response.r,
                "tokens": response.tokens,
                "kl": response.kl,
                "student_logprob": response.student_logprob,
                "teacher_logprob": response.teacher_logprob,
            }
            for response in scored
        ],
    }


def print_pairs(summaries: Sequence[dict[str, Any]]) -> None:
    for pair in summaries:
        shown = {
            name: f"{figure:.1%}" if isinstance(figure, float) and not name.startswith(IN_NATS) else figure
            for name, figure in headline(pair).items()
        }
        print_summary(f"{pair['name']}: {pair['responses']} responses, {pair['wrong']} wrong", shown)


def headline(pair: dict[str, Any]) -> dict[str, Any]:
    """The figures that matter most, by name; None: nothing to measure."""
    figures: dict[str, Any] = {}
    for r, name in ((0, "wrong"), (1, "right")):
        mass, copies = pair["figure_4"][f"r{r}"], pair["copying"][f"r{r}"]
        figures |= {
            f"{IN_NATS}, {name}": mass and mass["kl_per_token"],
            f"share of the KL on the top 20 tokens, {name}": mass and mass["top_share"],
            f"share of the KL on style tokens, {name}": mass and mass["kinds"]["style"]["kl"],
            f"tokens copied by the teacher, {name}": copies and copies["copied"],
        }
    error = pair["first_error"]["r0"]
    return figures | {
        "wrong responses with a checkable step that is wrong": error["errors"] if error else 0,
        "of these, KL peak at the first wrong step": error and error["at"],
        "of these, KL peak within 2 tokens of it": error and error["near"],
        "within 2 tokens by chance": error and error["chance"],
    }
