"""Files that survive a crash: written under a temporary name and then renamed, or appended line by line."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from srt.common.errors import UserError

_locks: dict[Path, int] = {}  # folder -> descriptor, open until this process ends


def _dumps(value: Any, **kwargs: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **kwargs)


@contextmanager
def atomic_write(path: Path, knob: str = "OUTPUT_DIR") -> Iterator[Path]:
    """Yields a temporary path beside `path`, which is renamed to `path` on success.

    Raises UserError, which names `knob`, when the folder is not writable or the disk is full; `path` is then
    unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error, knob) from error
    finally:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass  # the folder could not be created either: that error is already being raised


def cannot_write(path: Path, error: OSError, knob: str = "OUTPUT_DIR") -> UserError:
    is_file = isinstance(error, (FileExistsError, NotADirectoryError))
    reason = "part of its path is a file" if is_file else error.strerror or error
    return UserError(f"{path}: cannot be written ({reason}); free space or change {knob}")


def lock_folder(folder: Path) -> None:
    """Keep other processes out of `folder` until this one ends, however it ends: the kernel releases the lock.

    Raises UserError when another process holds the lock. Of the processes of one job (torchrun's RANK), only the
    first takes it; taking it again is harmless.
    """
    resolved = folder.resolve()
    if resolved in _locks or os.environ.get("RANK", "0") != "0":
        return
    try:
        resolved.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(resolved, os.O_RDONLY)  # of the folder itself; child processes do not inherit it
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"{folder} is in use by another process; wait for it to end, or choose another OUTPUT_DIR"
        ) from None
    except OSError as error:  # a network file system
        print(f"note: {folder} cannot be locked ({error.strerror}); never start two runs in it at once")
    _locks[resolved] = descriptor


def write_json(path: Path, value: Any, knob: str = "OUTPUT_DIR") -> None:
    with atomic_write(path, knob) as temporary:
        # Surrogates (invalid Unicode in model output) are kept as escapes instead of failing the run.
        temporary.write_text(_dumps(value, indent=1), encoding="utf-8", errors="backslashreplace")


def write_jsonl(path: Path, entries: Iterable[dict]) -> None:
    """Write a whole file at once; see JsonlLog for files that grow."""
    with atomic_write(path) as temporary:
        lines = [_dumps(entry, separators=(",", ":")) + "\n" for entry in entries]
        temporary.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


def remove(path: Path, knob: str = "OUTPUT_DIR") -> None:
    """Delete a file if it exists. Raises UserError when that is not permitted."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error, knob) from error


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of `atomic_write` that killed processes left; for a folder that is locked."""
    for path in folder.glob(".*.*.tmp"):
        if path.is_file() and path.name.split(".")[-2].isdigit():
            remove(path)


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError for a missing or broken file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError, and numbers of 5000 digits
        raise UserError(f"{path}: not readable as JSON ({error})") from None


class JsonlLog:
    """An append-only log, one JSON object per line, flushed after each. It holds none of them in memory.

    Opening it drops a last line that a crash cut off. Raises UserError when it cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        self._reader: BinaryIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._opened_at = self._repair()  # bytes that it held then
            self._file = open(path, "ab")
        except OSError as error:
            raise cannot_write(path, error) from error
        self._end = self._opened_at

    def _repair(self) -> int:
        """The size of the file in bytes, without a torn last line."""
        if not self.path.exists():
            return 0
        with open(self.path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            whole = _end_of_last_line(file, size)
        if whole < size:
            print(f"{self.path}: the last line was cut off by a crash ({size - whole} bytes); dropped")
            with open(self.path, "r+b") as file:
                file.truncate(whole)
        return whole

    @property
    def entries(self) -> list[dict]:
        """All that it held when it was opened. Raises UserError for a line that is not JSON."""
        return [entry for _, _, entry in self.lines()]

    def lines(self, damaged: list[int] | None = None) -> Iterator[tuple[int, int, dict]]:
        """(number, offset, entry) of each line that it held when it was opened; the offset is for `read`.

        Raises UserError for a line that is no JSON object, or, given `damaged`, adds its number there instead.
        """
        if not self._opened_at:
            return
        offset = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if offset >= self._opened_at:
                    return
                if line.strip():
                    try:
                        entry = _parse_line(line, self.path, number)
                    except UserError:
                        if damaged is None:
                            raise
                        damaged.append(number)
                    else:
                        yield number, offset, entry
                offset += len(line)

    def read(self, offset: int) -> dict:
        """The entry at an offset that `append` or `lines` gave."""
        if self._reader is None:
            self._reader = open(self.path, "rb")
        self._reader.seek(offset)
        return json.loads(self._reader.readline().decode("utf-8"))

    def append(self, entry: dict) -> int:
        """Write an entry; returns its offset in the file."""
        line = (_dumps(entry, separators=(",", ":")) + "\n").encode("utf-8", errors="backslashreplace")
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error
        offset, self._end = self._end, self._end + len(line)
        return offset

    def close(self) -> None:
        """End writing; `read` remains possible."""
        self._file.close()
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _end_of_last_line(file: BinaryIO, size: int, block: int = 2**16) -> int:
    """The offset after the last line break in the first `size` bytes, searched from the end."""
    end = size
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        if (index := file.read(end - start).rfind(b"\n")) >= 0:
            return start + index + 1
        end = start
    return 0


def parse_jsonl(text: str | bytes, path: Path) -> Iterable[dict]:
    """The objects in a JSONL text. Raises UserError with file and line for a line that is not JSON."""
    for number, line in enumerate(text.split("\n") if isinstance(text, str) else text.split(b"\n"), start=1):
        if line.strip():
            yield _parse_line(line, path, number)


def _parse_line(line: str | bytes, path: Path, number: int) -> dict:
    try:
        entry = json.loads(line.decode("utf-8") if isinstance(line, bytes) else line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {number}: not JSON ({error.msg})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line {number}: not UTF-8 ({error.reason})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number}: not readable as JSON ({error})") from None
    if not isinstance(entry, dict):
        raise UserError(f"{path}, line {number}: expected a JSON object, found {type(entry).__name__}")
    return entry


def read_jsonl(path: Path) -> list[dict]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return list(parse_jsonl(path.read_text(encoding="utf-8"), path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
