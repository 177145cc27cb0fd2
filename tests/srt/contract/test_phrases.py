"""Control phrases: their exact wording, sets from files, and contradictions."""

import pytest

from srt.common.errors import UserError
from srt.contract.phrases import PHRASE_SETS, PhraseSet, load_phrases, reconcile_phrases


def test_the_wording_of_the_paper():
    assert {name: phrases.as_dict() for name, phrases in PHRASE_SETS.items()} == {
        "qwen": {
            "name": "qwen",
            "1": "Let me rephrase the above solution.",
            "0": "Wait, this response is wrong. Let me correct it.",
        },
        "olmo": {
            "name": "olmo",
            "1": "Let me rephrase the above solution.",
            "0": "Wrong. I need to redo all.",
        },
        "paper": {
            "name": "paper",
            "1": "Let me rephrase the above solution.",
            "0": "Wait, this response is not correct, let me start over.",
        },
    }


def test_the_phrase_follows_the_reward():
    phrases = PhraseSet("own", wrong="Wrong.", right="Right.")
    assert (phrases.text(0), phrases.text(1)) == ("Wrong.", "Right.")
    assert (phrases.text(False), phrases.text(True)) == ("Wrong.", "Right.")


@pytest.mark.parametrize("name", PHRASE_SETS)
def test_named_sets(name):
    assert load_phrases(name) is PHRASE_SETS[name]
    assert PhraseSet.from_dict(PHRASE_SETS[name].as_dict()) == PHRASE_SETS[name]


@pytest.mark.parametrize("keys", ["{0}: Nein.\n{1}: Ja.\n", "'{0}': Nein.\n'{1}': ' Ja. '\n"])
def test_a_set_from_a_file(tmp_path, keys):
    path = tmp_path / "german.yaml"
    path.write_text(keys.format(0, 1))
    assert load_phrases(str(path)) == PhraseSet("german", wrong="Nein.", right="Ja.")


@pytest.mark.parametrize(
    "content",
    ["0: Nein.", "0: Nein.\n1: Ja.\n2: Vielleicht.", "0: Nein.\n1: 5", "0: Nein.\n1: ' '", "- Nein.", "Nein.", ""],
)
def test_a_file_with_other_content_is_refused(tmp_path, content):
    path = tmp_path / "phrases.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match="expected exactly the keys 0 and 1"):
        load_phrases(str(path))


def test_a_file_that_is_not_yaml_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "phrases.yaml"
    path.write_text("0: [unclosed\n")
    with pytest.raises(UserError, match=r"phrases\.yaml: not readable as YAML"):
        load_phrases(str(path))


@pytest.mark.parametrize("knob", ["gwen", "Qwen", "", "phrases.json"])
def test_an_unknown_set_is_refused_with_the_known_ones(knob):
    with pytest.raises(UserError, match=r"CONTROL_PHRASES=.*named set \(qwen, olmo, paper\) nor a \.yaml file"):
        load_phrases(knob)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"CONTROL_PHRASES=.*none\.yaml: no such file"):
        load_phrases(str(tmp_path / "none.yaml"))


def test_without_the_knob_the_stored_set_is_used():
    assert reconcile_phrases(None, PHRASE_SETS["olmo"].as_dict(), "ckpt") == PHRASE_SETS["olmo"]


def test_without_stored_phrases_the_knob_or_qwen_is_used_and_printed(capsys):
    assert reconcile_phrases("olmo", None, "ckpt") == PHRASE_SETS["olmo"]
    assert reconcile_phrases(None, None, "ckpt") == PHRASE_SETS["qwen"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "olmo" in lines[0] and "qwen" in lines[1] and all("ckpt" in line for line in lines)


def test_a_contradiction_is_refused_with_both_names_and_the_wording():
    with pytest.raises(UserError) as caught:
        reconcile_phrases("qwen", PHRASE_SETS["olmo"].as_dict(), "ckpts/stage2")
    for part in ("CONTROL_PHRASES=qwen", "ckpts/stage2", "'olmo'", "Wrong. I need to redo all."):
        assert part in str(caught.value)


def test_the_same_phrases_under_another_name_are_not_a_contradiction(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"0: '{PHRASE_SETS['olmo'].wrong}'\n1: '{PHRASE_SETS['olmo'].right}'\n")
    assert reconcile_phrases(str(path), PHRASE_SETS["olmo"].as_dict(), "ckpt") == PHRASE_SETS["olmo"]


def test_one_differing_word_is_a_contradiction():
    stored = PHRASE_SETS["qwen"].as_dict() | {"1": "Let me rephrase the solution above."}
    with pytest.raises(UserError, match="contradicts"):
        reconcile_phrases("qwen", stored, "ckpt")
