"""What a data file is when it is no UTF-8 text, and numbers that Python refuses to read."""

import codecs
from dataclasses import dataclass
from pathlib import Path

MAX_DIGITS = 4000  # Python reads whole numbers of up to 4300 digits
_STARTS = {  # the first bytes of a file -> what it is, and what makes text of it
    b"\x1f\x8b": ("compressed with gzip", "gunzip it"),
    b"PK\x03\x04": ("a zip archive", "unzip it"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unzstd it"),
    b"\xfd7zXZ\x00": ("compressed with xz", "unxz it"),
    b"BZh": ("compressed with bzip2", "bunzip2 it"),
    b"PAR1": ("a parquet file", "give it the suffix .parquet"),
    codecs.BOM_UTF32_LE: ("text in UTF-32", "iconv -f UTF-32 -t UTF-8"),
    codecs.BOM_UTF16_LE: ("text in UTF-16", "iconv -f UTF-16 -t UTF-8"),
    codecs.BOM_UTF16_BE: ("text in UTF-16", "iconv -f UTF-16 -t UTF-8"),
}


@dataclass(frozen=True)
class HugeNumber:
    """In place of a whole number that has too many digits for Python, which only spoils its own record."""

    digits: int


def parse_int(text: str) -> int | HugeNumber:
    """For json.loads."""
    return int(text) if len(text) <= MAX_DIGITS else HugeNumber(len(text.lstrip("-")))


def why_not_text(path: Path) -> str | None:
    """What a file is that starts like no UTF-8 text, and what to do; None for any other. Raises OSError."""
    with open(path, "rb") as file:
        start = file.read(8)
    for first, (what, remedy) in _STARTS.items():
        if start.startswith(first):
            return f"{what}; expected UTF-8 text ({remedy})"
    if start[1::2].count(0) >= 3 or start[::2].count(0) >= 3:
        return "text in UTF-16 without a byte order mark; expected UTF-8 (iconv -f UTF-16LE -t UTF-8)"
    return None


def not_utf8(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return f"not UTF-8 (byte 0x{byte:02X}), perhaps Latin-1 or Windows-1252 (iconv -f WINDOWS-1252 -t UTF-8)"
