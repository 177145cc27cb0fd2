"""How much of a disk a folder takes."""

from pathlib import Path


def disk_bytes(folder: Path) -> int:
    """The size of all files in a folder; links count as nothing. Files that vanish meanwhile are left out."""
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
        except OSError:
            continue
    return total


def shown_bytes(size: int) -> str:
    """8.1 GB, 12.0 MB or 3.4 kB, as `ls -h --si` has them."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1000:.1f} kB"
