"""Knobs that do not exist, that have absurd values, or that contradict each other."""

import socket

from tests.bad_inputs.place import Case, Place

# entry point, knob, value, what the sentence must say
VALUES = [
    ("collect", "SEED", "-1", "SEED=-1: must be at least 0"),
    ("collect", "SEED", "4294967296", "SEED=4294967296: must be at most 4294967295"),
    ("sft", "SEED", "9" * 30, "must be at most 4294967295"),
    ("distill", "SEED", "one", "SEED=one: expected a whole number"),
    ("collect", "BATCH_SIZE", "0", "BATCH_SIZE=0: must be at least 1"),
    ("collect", "BATCH_SIZE", "1e3", "BATCH_SIZE=1e3: expected a whole number"),
    ("collect", "MAX_TOKENS", "-5", "MAX_TOKENS=-5: must be at least 1"),
    ("evaluate", "TEMPERATURE", "-1", "TEMPERATURE=-1.0: must be at least 0"),
    ("evaluate", "TEMPERATURE", "inf", "TEMPERATURE=inf: expected a finite number"),
    ("evaluate", "TEMPERATURE", "1000", "TEMPERATURE=1000.0: must be at most 100"),
    ("collect", "TOP_P", "0", "TOP_P=0.0: must be at least 1e-06"),
    ("distill", "TOP_P", "1.5", "TOP_P=1.5: must be at most 1"),
    ("collect", "NUM_RESPONSES", "0", "NUM_RESPONSES=0: must be at least 1"),
    ("collect", "TARGET_REVISION_SAMPLES", "", "TARGET_REVISION_SAMPLES=: expected a whole number"),
    ("collect", "RIGHT_SHARE", "2", "RIGHT_SHARE=2.0: must be at most 1"),
    ("collect", "RIGHT_SHARE", "0.5", "set REVISE_CORRECT=1"),
    ("collect", "MODE", "chess", "MODE=chess: expected one of math, code"),
    ("evaluate", "SAMPLER", "magic", "SAMPLER=magic: expected one of auto, vllm, transformers"),
    ("collect", "DTYPE", "int8", "DTYPE=int8: expected one of"),
    ("collect", "REVISE_CORRECT", "maybe", "REVISE_CORRECT=maybe: expected 0 or 1"),
    ("sft", "RECIPE", "cake", "RECIPE=cake: expected one of paper, readme, release"),
    ("collect", "CONTROL_PHRASES", "quen", "CONTROL_PHRASES=quen is neither a named set"),
    ("collect", "CONTROL_PHRASES", "/no/where.yaml", "CONTROL_PHRASES=/no/where.yaml: no such file"),
    ("collect", "CHAT_TEMPLATE_KWARGS", "thinking", "expected a JSON object"),
    ("collect", "CHAT_TEMPLATE_KWARGS", "[1]", "expected a JSON object"),
    ("collect", "CHAT_TEMPLATE_KWARGS", '{"a": NaN}', "expected a JSON object"),
    ("collect", "CHAT_TEMPLATE_KWARGS", '{"messages": []}', "messages is set by this program"),
    ("collect", "CHAT_TEMPLATE_KWARGS", '{"self": 1}', "multiple values for argument 'self'"),
    ("sft", "LR_STAGE1", "0", "LR_STAGE1=0.0: must be above 0"),
    ("sft", "LR_STAGE2", "nan", "LR_STAGE2=nan: expected a finite number"),
    ("sft", "EPOCHS_STAGE1", "0", "EPOCHS_STAGE1=0.0: must be at least 0.001"),
    ("sft", "EPOCHS_STAGE2", "1e9", "must be at most 1000"),
    ("sft", "LORA_ALPHA", "0", "LORA_ALPHA=0.0: must be above 0"),
    ("sft", "LORA_RANK", "-1", "LORA_RANK=-1: must be at least 0"),
    ("sft", "WARMUP_RATIO", "1.5", "WARMUP_RATIO=1.5: must be at most 0.999"),
    ("sft", "MAX_LENGTH", "3", "all 1 tuples are longer than MAX_LENGTH=3"),
    ("sft", "VAL_FRACTION", "0.5", "splits the 1 tuples of stage"),
    ("sft", "MASTER_PORT", "70000", "MASTER_PORT=70000: must be at most 65535"),
    ("sft", "NUM_PROCESSES", "0", "NUM_PROCESSES=0: must be at least 1"),
    ("sft", "REPORT_TO", "paper", "REPORT_TO=paper: expected one of"),
    ("sft", "REPORT_TO", "wandb", "REPORT_TO=wandb: the package wandb is not installed"),
    ("distill", "REPORT_TO", "trackio", "REPORT_TO=trackio: the package trackio is not installed"),
    ("distill", "LR", "0", "LR=0.0: must be above 0"),
    ("distill", "LR", "5", "LR=5.0: must be at most 1"),
    ("distill", "LR", "5e-6x", "LR=5e-6x: expected a number"),
    ("distill", "WARMUP_STEPS", "10000", "WARMUP_STEPS=10000: the whole run has"),
    ("distill", "OVER_ISSUE", "2", "OVER_ISSUE=2.0: must be at most 1"),
    ("distill", "ROLLOUT_AHEAD", "2", "ROLLOUT_AHEAD=2: expected"),
    ("distill", "ROLLOUT_GPUS", "1", "ROLLOUT_GPUS=1 needs ENGINE=nemo-rl"),
    ("distill", "NUM_PROMPTS_PER_STEP", "7", "does not divide NUM_PROMPTS_PER_STEP=7"),
    ("distill", "TEACHER_SYNC", "steps", "TEACHER_SYNC_STEPS must say how many steps"),
    ("distill", "TEACHER_SYNC_STEPS", "3", "TEACHER_SYNC_STEPS=3 has no effect"),
    ("distill", "TEACHER_SYNC", "plateau", "it needs VAL_PERIOD above 0"),
    ("distill", "STOP_ON_COLLAPSE", "0.1", "VAL_PERIOD=0 turns them off"),
    ("distill", "KL_TYPE", "euclidean", "KL_TYPE=euclidean: expected one of reverse, forward, mixed, jsd"),
    ("distill", "ENGINE", "nemo-rl", "ENGINE=nemo-rl: "),
    ("distill", "SRT_REPLAY", "0.5", "SRT_REPLAY=0.5 needs SRT_REPLAY_DATA"),
    ("distill", "SRT_PROBLEMS", "/no/list.jsonl", "/no/list.jsonl: no such file"),
    ("distill", "MAX_NUM_STEPS", "0", "MAX_NUM_STEPS=0: must be at least 1"),
    ("report", "EXAMPLES", "-1", "EXAMPLES=-1: must be at least 0"),
    ("collect", "OUTPUT_DIR", "~nobody-here/x", "OUTPUT_DIR=~nobody-here/x: there is no such user"),
    ("prepare", "STAGE1_SIZE", "0", "STAGE1_SIZE=0: must be at least 1"),
]
# entry point, argument, what the sentence must say
ARGUMENTS = [
    ("collect", "batch_sise=3", "unknown knob 'batch_sise=3'; did you mean batch_size?"),
    ("collect", "base_model=x", "did you mean MODEL_PATH?"),
    ("prepare", "stage1_size", "expected key=value, so write stage1_size=VALUE"),
    ("sft", "epochs_stage1", "expected key=value, so write epochs_stage1=VALUE"),
    ("sft", "--epochs-stage1=3", "so write epochs_stage1=3"),
    ("sft", "lr=1e-4", "did you mean LR_STAGE1 and LR_STAGE2?"),
    ("sft", "--learning_rate=1e-4", "did you mean LR_STAGE1 and LR_STAGE2?"),
    ("distill", "max_steps=3", "did you mean MAX_NUM_STEPS?"),
    ("distill", "--model", "did you mean STUDENT_MODEL?"),
    ("evaluate", "student_model=x", "did you mean MODEL_PATH?"),
    ("report", "xyzzy", "xyzzy and COLLECTION: name either the folders of runs"),
    ("evaluate", "seed=", "SEED=: expected a whole number"),
]
PHRASE_FILES = {
    "equal phrases in a file": ("0: 'Again.'\n1: 'Again. '\n", "both are 'Again.'"),
    "three phrases": ("0: a\n1: b\n2: c\n", "expected exactly the keys 0 and 1"),
    "a list of phrases": ("[a, b]", "expected exactly the keys 0 and 1"),
    "an empty phrase": ("0: ' '\n1: b\n", "expected exactly the keys 0 and 1"),
    "phrases that are no YAML": ("0: [", "not readable as YAML"),
    "phrases in Latin-1": ("0: é\n1: b\n".encode("latin-1"), "cannot be read"),
}


def port_in_use(place: Place) -> dict:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    KEPT.append(taken)
    return {"MASTER_PORT": taken.getsockname()[1]}


KEPT: list[socket.socket] = []  # open until the tests end

CASES = [
    *(
        Case(f"{entry_point}: {knob}={value[:20]!r}", entry_point, lambda p, k=knob, v=value: {k: v}, sentence)
        for entry_point, knob, value, sentence in VALUES
    ),
    *(
        Case(f"{entry_point}: argument {argument!r}", entry_point, lambda p: {}, sentence, (argument,))
        for entry_point, argument, sentence in ARGUMENTS
    ),
    *(
        Case(name, "collect", lambda p, c=content: {"CONTROL_PHRASES": p.write("phrases.yaml", c)}, sentence)
        for name, (content, sentence) in PHRASE_FILES.items()
    ),
    Case("a port in use", "sft", port_in_use, "cannot be used (Address already in use)"),
    Case("nothing to report", "report", lambda p: {"COLLECTION": p.folder / "nowhere"}, "nothing to report"),
    Case(
        "an adapter beside another teacher",
        "distill",
        lambda p: {"LORA_RANK": 4, "TEACHER_MODEL": next(iter(p.model().values())), "STUDENT_MODEL": p.tiny},
        "must be STUDENT_MODEL or unset",
    ),
    *(
        Case(
            f"{entry_point}: an output below a file",
            entry_point,
            lambda p: {"OUTPUT_DIR": p.write("file", "").joinpath("output")},
            "cannot be written (part of its path is a file)",
        )
        for entry_point in ("collect", "sft", "distill", "evaluate")
    ),
]
