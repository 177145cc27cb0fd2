"""What the page's script needs of the responses that it shows."""

from collections.abc import Sequence
from typing import Any

from opsd.localize.records import ScoredResponse
from opsd.localize.token_text import token_text

MAX_TOKENS = 3000  # of a response


def shown_responses(scored: Sequence[ScoredResponse], count: int) -> list[ScoredResponse]:
    """The first `count` wrong and the first `count` right ones, so that none is hand-picked."""
    return [response for r in (0, 1) for response in [one for one in scored if one.r == r][:count]]


def page_data(
    scored: dict[str, list[ScoredResponse]], tokenizers: dict[str, Any], count: int
) -> list[dict[str, Any]]:
    """For each pair its shown responses; alternatives are [index in `texts`, student's, teacher's probability]."""
    return [
        _pair_data(name, shown_responses(responses, count), tokenizers[name]) for name, responses in scored.items()
    ]


def _pair_data(name: str, responses: list[ScoredResponse], tokenizer: Any) -> dict[str, Any]:
    ids = sorted({alternative[0] for r in responses for token in r.alternatives for alternative in token})
    index = {token: position for position, token in enumerate(ids)}
    return {
        "name": name,
        "texts": [token_text(tokenizer, token) for token in ids],
        "responses": [_response_data(response, index) for response in responses],
    }


def _response_data(response: ScoredResponse, index: dict[int, int]) -> dict[str, Any]:
    end = MAX_TOKENS
    return {
        "id": response.id,
        "number": response.response,
        "x": response.x,
        "answer": response.answer,
        "r": response.r,
        "cutOff": response.finish_reason == "length",
        "phrase": response.p_r,
        "more": max(0, len(response.tokens) - end),
        "own": [index.get(token, -1) for token in response.ids[:end]],
        "tokens": response.tokens[:end],
        "kl": response.kl[:end],
        "studentEntropy": response.student_entropy[:end],
        "teacherEntropy": response.teacher_entropy[:end],
        "studentLogprob": response.student_logprob[:end],
        "teacherLogprob": response.teacher_logprob[:end],
        "studentRank": response.student_rank[:end],
        "teacherRank": response.teacher_rank[:end],
        "alternatives": [
            [[index[token], p, q] for token, p, q in alternatives] for alternatives in response.alternatives[:end]
        ],
        "variants": {
            name: {"kl": scores.kl[:end], "logprob": scores.logprob[:end]}
            for name, scores in response.variants.items()
        },
    }
