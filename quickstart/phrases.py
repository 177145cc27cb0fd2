"""The control phrases in the training text of the base model: the default set of the pipeline."""

from srt.contract.phrases import PHRASE_SETS

PHRASE_SET = PHRASE_SETS["qwen"]
PHRASES = {r: PHRASE_SET.text(r) for r in (1, 0)}
