"""The control phrases P_r, defined only here (arXiv:2604.12002, section 2.1)."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from srt.common.errors import UserError


@dataclass(frozen=True)
class PhraseSet:
    """A named pair of control phrases; the name and both texts are stored in every artifact."""

    name: str
    wrong: str  # P_0, appended to a response with reward 0
    right: str  # P_1, appended to a response with reward 1

    def text(self, r: int) -> str:
        return self.right if r else self.wrong

    def as_dict(self) -> dict[str, str]:
        return {"name": self.name, "0": self.wrong, "1": self.right}

    @classmethod
    def from_dict(cls, stored: dict[str, str]) -> "PhraseSet":
        try:
            phrases = cls(name=stored["name"], wrong=stored["0"], right=stored["1"])
        except (KeyError, TypeError):
            phrases = None
        if phrases is None or not all(isinstance(text, str) for text in vars(phrases).values()):
            raise UserError(
                f"the stored control phrases are damaged (expected name, 0 and 1, found {stored!r:.200})"
            )
        phrases.check("the stored control phrases")
        return phrases

    def check(self, where: str) -> None:
        """Raises UserError for phrases by which a model could not tell a right response from a wrong one."""
        if " ".join(self.wrong.split()) == " ".join(self.right.split()):
            raise UserError(
                f"{where}: both are {self.wrong!r}, so nothing would tell the model which responses are wrong; "
                "use two different ones"
            )


PHRASE_SETS = {
    "qwen": PhraseSet(
        name="qwen",
        wrong="Wait, this response is wrong. Let me correct it.",
        right="Let me rephrase the above solution.",
    ),
    "olmo": PhraseSet(
        name="olmo", wrong="Wrong. I need to redo all.", right="Let me rephrase the above solution."
    ),
    "paper": PhraseSet(
        name="paper",
        wrong="Wait, this response is not correct, let me start over.",
        right="Let me rephrase the above solution.",
    ),
}


def load_phrases(knob: str) -> PhraseSet:
    """The set that CONTROL_PHRASES names: qwen, olmo, paper, or a YAML file with the keys `0` and `1`.

    Raises UserError for anything else.
    """
    if knob in PHRASE_SETS:
        return PHRASE_SETS[knob]
    path = Path(knob)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(
            f"CONTROL_PHRASES={knob} is neither a named set ({', '.join(PHRASE_SETS)}) nor a .yaml file"
        )
    if not path.is_file():
        raise UserError(f"CONTROL_PHRASES={knob}: no such file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    phrases = {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
    if set(phrases) != {"0", "1"} or not all(isinstance(p, str) and p.strip() for p in phrases.values()):
        raise UserError(
            f"{path}: expected exactly the keys 0 and 1, with the phrases for a wrong (0) and a right (1) "
            f"response; found {sorted(phrases)}"
        )
    loaded = PhraseSet(name=path.stem, wrong=phrases["0"].strip(), right=phrases["1"].strip())
    loaded.check(str(path))
    return loaded


def reconcile_phrases(knob: str | None, stored: dict[str, str] | None, where: str) -> PhraseSet:
    """The set to use, given the one `stored` in the artifact at `where` (None: nothing stored).

    Without the knob: the stored set, or qwen if there is none. Raises UserError when knob and artifact differ:
    a teacher trained on other phrases does not know what these mean.
    """
    if stored is None:
        phrases = load_phrases(knob or "qwen")
        print(f"control phrases: {phrases.name} ({where} does not record which it was made with)")
        return phrases
    from_artifact = PhraseSet.from_dict(stored)
    if knob is not None:
        requested = load_phrases(knob)
        if (requested.wrong, requested.right) != (from_artifact.wrong, from_artifact.right):
            raise UserError(
                f"CONTROL_PHRASES={knob} contradicts {where}, which was made with the set "
                f"'{from_artifact.name}' ({from_artifact.wrong!r} / {from_artifact.right!r}); leave the knob "
                f"unset and RECIPE as it was there, or use a checkpoint and data made with '{requested.name}'"
            )
    return from_artifact
