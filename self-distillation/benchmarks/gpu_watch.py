"""The memory of GPUs, seen from outside of the processes that use it (NVML)."""

import threading


class GpuWatch:
    """Samples these GPUs every 100 ms, in a thread, between `start` and `stop`; without NVML it knows nothing."""

    def __init__(self, gpus: list[int]):
        self.gpus = gpus
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        if self.gpus:
            self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def peak_gib(self) -> float | None:
        """Of the fullest GPU."""
        return self.peak_bytes / 2**30 if self.peak_bytes else None

    def _watch(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(gpu) for gpu in self.gpus]
            while not self._ended.wait(0.1):
                used = (int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles)
                self.peak_bytes = max(self.peak_bytes, *used)
        except Exception as error:  # a figure less must not end a benchmark
            print(f"GPU memory is not measured: {error}", flush=True)
