"""The control phrases the base meets in its training text: the pipeline's default set."""

from srt.contract.phrases import PHRASE_SETS

PHRASE_SET = PHRASE_SETS["qwen"]
PHRASES = {r: PHRASE_SET.text(r) for r in (1, 0)}
