"""What is heard of a vLLM engine that starts, and said about it."""

import logging

from srt.sampling.vllm_start import StartMessages

MESSAGES = [
    "Model loading took 2.98 GiB memory and 1.250000 seconds",  # vLLM 0.20's own words
    "Directly load the compiled graph(s) for compile range (1, 8192) from the cache, took 1.803 s",
    "torch.compile took 30.25 s in total",
    "Graph capturing finished in 4 secs, took 0.51 GiB",
    "torch.compile and initial profiling/warmup run together took 5.00 s in total",  # of a second model
    "init engine (profile, create kv cache, warmup model) took 44.10 s (compilation: 30.25 s)",
]


def test_parts_are_summed_and_the_rest_is_other():
    messages = StartMessages()
    with messages.listening():
        for message in MESSAGES:
            logging.getLogger("vllm.some.module").info(message)
    assert messages.parts == {"weights": 1.25, "compilation": 35.25, "CUDA graphs": 4.0}
    messages.seconds = 60.0
    assert messages.describe() == "60 s (weights 1, compilation 35, CUDA graphs 4, other 20)"
    assert messages.text == MESSAGES[-1][:100]
    messages.parts.clear()
    assert messages.describe() == "60 s"


def test_messages_below_vllms_level_are_heard_and_not_printed(capsys):
    logger = logging.getLogger("vllm")
    level, handlers, propagates = logger.level, logger.handlers, logger.propagate
    own = logging.StreamHandler()  # as vLLM configures its logger for VLLM_LOGGING_LEVEL=WARNING
    own.setLevel(logging.WARNING)
    logger.handlers, logger.propagate = [own], False
    logger.setLevel(logging.WARNING)
    try:
        messages = StartMessages()
        with messages.listening():
            logger.info("Graph capturing finished in 4 secs, took 0.51 GiB")
        logger.info("Graph capturing finished in 9 secs, took 0.51 GiB")
        assert logger.level == logging.WARNING and logger.handlers == [own]
    finally:
        logger.handlers, logger.propagate = handlers, propagates
        logger.setLevel(level)
    assert messages.parts == {"CUDA graphs": 4.0}
    assert capsys.readouterr().err == ""
