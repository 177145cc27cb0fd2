"""transformers' warning about Mistral's tokenizers, hidden where it is a false alarm.

transformers 5 warns of a wrong regular expression in every tokenizer of more than 100 000 entries beside a
config.json without `transformers_version`: only where that is recorded does it ask whether the model is one of
Mistral's. Its advice would change how the tokenizers of all other families split text.
"""

import json
import logging
from pathlib import Path

FLAG = "fix_mistral_regex"  # which the warning advises to set
# In the types of Mistral's models (mixtral, pixtral, ...), and of those that may have a tokenizer of Mistral's.
PERHAPS_MISTRALS = ("tral", "llama")

_others: set[str] = set()


def hide_false_alarm(model_path: str) -> None:
    """No such warning from now on, whoever loads it, about the tokenizer of a local folder with another model."""
    try:
        config = json.loads((Path(model_path) / "config.json").read_text(encoding="utf-8"))
        model_type = config.get("model_type")
    except (OSError, ValueError, AttributeError):  # loading it will say what is wrong
        return
    if isinstance(model_type, str) and not any(part in model_type for part in PERHAPS_MISTRALS):
        _others.add(model_path)


def _is_no_false_alarm(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return FLAG not in message or not any(f"'{path}'" in message for path in _others)


logging.getLogger("transformers.tokenization_utils_tokenizers").addFilter(_is_no_false_alarm)
