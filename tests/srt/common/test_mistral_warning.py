"""transformers' warning about Mistral's tokenizers: shown for theirs, hidden for others, which are not changed."""

import json
import logging
import shutil

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from srt.common.models import load_tokenizer

TEXT = "t1 12345 isn't"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A tokenizer that splits digits from each other, with as many entries as the warning takes."""
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"<{number}>" for number in range(100_001)]
    tokenizer = Tokenizer(models.BPE({word: n for n, word in enumerate(characters + words)}, []))
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    folder = tmp_path_factory.mktemp("large")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


class Warnings(logging.Handler):
    """How many warnings of this kind there have been."""

    count = 0

    def emit(self, record):
        self.count += "fix_mistral_regex" in record.getMessage()


@pytest.fixture
def warnings():
    logger, handler = logging.getLogger("transformers.tokenization_utils_tokenizers"), Warnings()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    "config, shown",
    [
        ({"model_type": "qwen2"}, False),
        ({"model_type": "olmo3"}, False),
        ({"model_type": "mistral"}, True),
        ({"model_type": "mixtral", "transformers_version": "4.57.0"}, False),  # by transformers itself
        ({"model_type": "mixtral"}, True),
        ({"model_type": "llama"}, True),
        ({}, True),
    ],
)
def test_the_warning_is_shown_where_the_tokenizer_may_be_one_of_mistrals(large, tmp_path, warnings, config, shown):
    folder = tmp_path / "model"
    shutil.copytree(large, folder)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(str(folder))
    assert warnings.count == shown
    again = AutoTokenizer.from_pretrained(str(folder))  # as vLLM does
    assert warnings.count == 2 * shown
    assert tokenizer.encode(TEXT) == again.encode(TEXT)


def test_it_is_hidden_only_for_the_folder_that_was_looked_at(large, tmp_path, warnings):
    for name in ("other", "model"):
        shutil.copytree(large, tmp_path / name)
        (tmp_path / name / "config.json").write_text('{"model_type": "qwen2"}')
    load_tokenizer(str(tmp_path / "model"))
    assert warnings.count == 0
    AutoTokenizer.from_pretrained(str(tmp_path / "other"))
    assert warnings.count == 1
