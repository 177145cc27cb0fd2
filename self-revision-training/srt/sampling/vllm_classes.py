"""Keeps to vLLM's own model what vLLM changes in the classes of transformers.

A family that vLLM has no code for runs with that of transformers, and vLLM then changes the model's class for
torch.compile: whatever else is of that class, like the student and the teacher in the same process, can neither be
called nor created any more.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from transformers import MODEL_MAPPING, PreTrainedModel


class Definition(NamedTuple):
    bases: tuple[type, ...]
    attributes: dict[str, Any]


def model_classes(config: Any) -> dict[type, Definition]:
    """The classes of models in this process as they are now, with those of a transformers config."""
    for part in (config, config.get_text_config()):
        if type(part) in MODEL_MAPPING:
            MODEL_MAPPING[type(part)]  # imports it
    return {cls: Definition(cls.__bases__, dict(vars(cls))) for cls in _subclasses(PreTrainedModel)}


def separate_classes(model: Any, before: dict[type, Definition]) -> None:
    """Give the modules of vLLM's model, where their classes are other than `before`, classes of their own; restore
    the others."""
    own: dict[type, type] = {}
    for module in model.modules():
        cls = type(module)
        if cls in before and cls not in own and cls.__bases__ != before[cls].bases:
            own[cls] = _moved(cls, before[cls])
        if cls in own:
            module.__class__ = own[cls]


def _moved(cls: Any, before: Definition) -> type:
    """A subclass of `cls` with what it has beyond `before`, to which `cls` is set back."""
    changed = {name: value for name, value in vars(cls).items() if before.attributes.get(name) is not value}
    added = tuple(base for base in cls.__bases__ if base not in before.bases)
    for name in changed:
        if name in before.attributes:
            setattr(cls, name, before.attributes[name])
        else:
            delattr(cls, name)
    cls.__bases__ = before.bases
    return type(cls.__name__, (cls, *added), changed)


def _subclasses(cls: type) -> Iterator[type]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
