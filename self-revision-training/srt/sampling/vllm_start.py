"""What vLLM says while an engine starts in this process: its last message, and how long the parts took."""

import contextlib
import logging
import re
import time
from collections.abc import Iterator

# The messages of vLLM 0.20, whose numbers are seconds, and the names that these have here.
PARTS = {
    "weights": re.compile(r"Model loading took .* ([\d.]+) seconds"),
    "compilation": re.compile(r"torch\.compile .*took ([\d.]+) s in total"),
    "CUDA graphs": re.compile(r"Graph capturing finished in ([\d.]+) secs"),
}


class StartMessages(logging.Handler):
    """`text`: the last message, cut to a line. `seconds`: of the parts that were named, and in all.

    vLLM's own output stays at VLLM_LOGGING_LEVEL. Newer versions (0.32) set up their logger anew in each start,
    and are not heard.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.text = ""
        self.parts: dict[str, float] = {}
        self.seconds = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self.text = " ".join(message.split())[:100]
        for name, pattern in PARTS.items():
            if found := pattern.search(message):
                self.parts[name] = self.parts.get(name, 0.0) + float(found[1])

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """During the block, in which the engine starts. `from vllm import LLM` must come before: it sets up vLLM's
        logger."""
        logger, started = logging.getLogger("vllm"), time.monotonic()
        level = logger.level
        # Its handlers have a level of their own, and go on leaving out what is below it.
        logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.setLevel(level)
            self.seconds = time.monotonic() - started

    def describe(self) -> str:
        """Such as "71 s (weights 2, compilation 38, CUDA graphs 9, other 22)"; without parts, the time in all."""
        if not self.parts:
            return f"{self.seconds:.0f} s"
        parts = self.parts | {"other": max(0.0, self.seconds - sum(self.parts.values()))}
        shown = ", ".join(f"{name} {seconds:.0f}" for name, seconds in parts.items())
        return f"{self.seconds:.0f} s ({shown})"
