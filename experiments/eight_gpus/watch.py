"""The most memory that was in use while a job ran: on the GPU with the most, and of main memory."""

from srt.common.machine import Machine, this_machine
from srt.common.memory_plan import GIB


class MemoryWatch:
    """Of the whole machine, so that other processes count. Main memory: beyond what was in use before."""

    def __init__(self) -> None:
        self.before = this_machine()
        self.gpu = self.host = 0

    def sample(self, machine: Machine | None = None) -> None:
        """`machine`: as it is now, measured if it is not given."""
        now = machine or this_machine()
        self.gpu = max(self.gpu, now.gpu_total - (now.gpu_bytes or 0))
        if self.before.host_bytes is not None and now.host_bytes is not None:
            self.host = max(self.host, self.before.host_bytes - now.host_bytes)

    def figures(self) -> dict[str, float]:
        used = {"gpu_in_use_gib": self.gpu, "host_memory_gib": self.host}
        return {name: round(size / GIB, 1) for name, size in used.items() if size}
