"""A package, so that `tests` is this one where another on the path, NeMo-RL's, has a folder of the same name."""
