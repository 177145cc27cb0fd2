"""Stands in for soundfile, which NeMo-RL imports and this repository does not use; see driver/runtime.py."""


def available_formats() -> dict[str, str]:
    """None; a library that NeMo-RL imports asks."""
    return {}
