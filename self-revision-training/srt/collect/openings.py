"""Chat-like openings: leading sentences that are an apology, thanks, a greeting or assent, and nothing else.

A sentence is stripped only if *all* of it is in the small grammar below; one word beyond it and the sentence
stays. What a model says about its own error ("My mistake was treating the two balls as identical.") is what
revision training teaches, and "Thanks to the symmetry", "Certainly, every prime" and "Sorry, 7 is not prime"
only begin like talk. tests/srt/data/openings.jsonl is a labelled list of both kinds.
"""

import re

_DEGREE = r"(?:so|very|really|truly|deeply|sincerely|terribly|absolutely|completely|totally|quite|entirely|indeed)"
_WHOSE = r"(?:the|my|any|that|this|all|all the|your|for the|for my)"
_WHEN = r"(?:earlier|previous|prior|last|initial|first|above)"
_FAULT = (
    r"(?:confusion|mistakes?|errors?|oversights?|inconvenience|misunderstandings?|mix-?up|slip|trouble"
    r"|mess|frustration|carelessness)"
)
_WORK = r"(?:responses?|answers?|solutions?|messages?|repl(?:y|ies)|calculations?|work|attempts?|reasoning)"
_IN_WORK = (
    rf"(?: (?:in|with) {_WHOSE}(?: {_WHEN})? {_WORK}| {_WHEN}| (?:i )?(?:made|caused)| this may have caused)"
)
_FAULTS = rf"(?:{_WHOSE} )?(?:{_WHEN} )?{_FAULT}(?: (?:and|or) (?:{_WHOSE} )?{_FAULT})?{_IN_WORK}{{0,2}}"
_THIS = r"(?:that|this|it|everything)"
_POINTING_OUT = (
    rf"(?:pointing {_THIS} out(?: to me)?|(?:pointing out|catching|noticing|spotting|flagging|correcting)"
    rf" (?:{_FAULTS}|{_THIS}))"
)
_CALLING = rf"(?:to (?:point {_THIS} out|point out {_FAULTS}|question {_THIS}|call {_THIS} out)|about {_THIS})"

# One clause each, where one alternative begins another the longer one first; a sentence is one or more of them.
_COURTESY = "|".join(
    (
        # apology
        rf"(?:please )?(?:forgive me|accept my (?:{_DEGREE} )?(?:sincere |deepest )?apolog(?:y|ies))"
        rf"(?: for (?:{_FAULTS}|{_THIS}))?",
        rf"(?:i (?:do |must |want to |would like to |{_DEGREE} )*apologi[sz]e"
        rf"|(?:my |my sincere |my sincerest |my deepest |sincere |many )?apologies"
        rf"|(?:i(?:'m| am) )?(?:{_DEGREE} )*sorry|(?:please )?excuse me|pardon me)"
        rf"(?: (?:again|{_DEGREE}))?(?: (?:about|for) (?:{_FAULTS}|{_POINTING_OUT}|{_THIS}))?",
        r"(?:oh |that(?:'s| is| was) )?my (?:mistake|bad|fault|error|apologies)",
        # thanks
        rf"(?:many thanks|thank(?:s| you))(?: again| you)?(?: (?:so much|very much|a lot|a bunch))?"
        rf"(?: for (?:{_POINTING_OUT}|(?:the|your) (?:correction|feedback|patience|question|help|note|hint|"
        rf"clarification|understanding|reminder|message|problem)(?: and (?:patience|feedback|understanding))?"
        rf"|asking|letting me know|your time|bringing {_THIS} to my attention))?",
        rf"i (?:really |{_DEGREE} )?appreciate"
        rf" (?:your (?:patience|feedback|correction|help|question|understanding)|{_THIS}|you {_POINTING_OUT})",
        # greeting
        r"(?:hi|hello|hey|greetings|welcome)(?:,? (?:there|everyone|all|again|friend))?",
        r"good (?:morning|afternoon|evening|day)(?: everyone| to you)?",
        r"(?:i hope (?:you(?:'re| are) (?:doing )?well|this finds you well)|nice to meet you)",
        r"(?:i(?:'d| would) be |i(?:'m| am) )?(?:happy|glad|delighted|pleased) to (?:help|assist)"
        r"(?: you)?(?: out)?(?: with (?:this problem|your (?:question|problem)|this|that|it))?",
        # assent
        rf"(?:you(?:'re| are) (?:{_DEGREE} )*(?:right|correct)(?: {_CALLING}| again)?)",
        rf"(?:that(?:'s| is) |what )?(?:a |an )?(?:{_DEGREE} )?(?:good|great|nice|excellent|fair|valid|wonderful"
        r"|interesting|fantastic)"
        r" (?:catch|question|point|observation|spot|eye|problem)(?: there| indeed)?",
        r"(?:sure(?: thing)?|certainly|absolutely|of course|no problem|no worries|my pleasure)",
    )
)
_FILLER = (
    r"(?:oh|ah|aha|hmm+|wow|whoa|yes|yeah|yep|okay|ok|well|alright|right|no|oops|ugh|and|but|again|once again)"
)
_GAP = r"[ \t,;\u2013\u2014-]+"
# Clauses are atomic (?>...): "sorry again sorry again ..." must not be tried in every way of dividing it.
_TALK = re.compile(
    rf"(?:{_FILLER}{_GAP})*(?>{_COURTESY})(?:{_GAP}(?:{_FILLER}{_GAP})*(?>{_COURTESY}))*", re.IGNORECASE
)
_SENTENCE = re.compile(
    r"(?P<words>[^.!?…\n]+)(?P<end>[.!?…]*)[ \U0001f300-\U0001faff\u2600-\u27bf\ufe0f]*(?P<line>\n)?"
)
MAX_SENTENCE = 250  # characters


def opening_end(text: str) -> int:
    """Where the chat-like opening of `text`, with the white space after it, ends.

    0 if there is none, or if nothing follows it.
    """
    end = 0
    while True:
        start = _skip_space(text, end)
        sentence = _SENTENCE.match(text[start : start + MAX_SENTENCE])
        if sentence is None or not _is_talk(sentence):
            break
        end = start + sentence.end()
    end = _skip_space(text, end) if end else 0
    return end if end < len(text) else 0


def _skip_space(text: str, start: int) -> int:
    return len(text) - len(text[start:].lstrip())


def _is_talk(sentence: re.Match) -> bool:
    """Whether the sentence is complete and nothing but talk. A question ("Sorry?") is not: its answer follows."""
    complete = sentence["line"] if not sentence["end"] else "?" not in sentence["end"]
    followed_by_space = sentence["line"] or sentence.group()[-1:].isspace()
    words = sentence["words"].strip().replace("’", "'")
    return bool(complete and followed_by_space) and _TALK.fullmatch(words) is not None
