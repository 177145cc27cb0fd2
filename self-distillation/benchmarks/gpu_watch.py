"""The memory of GPUs, seen from outside of the processes that use it."""

import shutil
import subprocess
import threading

QUERY = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--loop-ms=200"]


class GpuWatch:
    """The most that any of these GPUs held between `start` and `stop`, every 200 ms, as nvidia-smi says it."""

    def __init__(self, gpus: list[str]):
        """`gpus`: indices or UUIDs, as CUDA_VISIBLE_DEVICES names them."""
        self.gpus = gpus
        self.peak_mib = 0
        self._process: subprocess.Popen | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        if self.gpus and shutil.which(QUERY[0]):
            command = [*QUERY, f"--id={','.join(self.gpus)}"]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self._thread.start()

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._thread.join()
            self._process.wait()

    @property
    def peak_gib(self) -> float | None:
        """None where nothing was measured."""
        return self.peak_mib / 1024 if self.peak_mib else None

    def _read(self) -> None:
        assert self._process and self._process.stdout
        for line in self._process.stdout:
            if line.strip().isdigit():
                self.peak_mib = max(self.peak_mib, int(line))
