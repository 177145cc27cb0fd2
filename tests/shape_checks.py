"""Checks the shapes that `srt` and `opsd` annotate, such as Float[Tensor, "T H"], while the tests run.

Within one call a dimension's name has one size. Only arrays are checked: test doubles may stand in for everything
else. Only in-process code is checked: nothing here reaches subprocesses, sandboxed programs or production.

CONTRIBUTING.md lists the dimensions' names.
"""

import functools
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any, Union, get_args, get_origin

from jaxtyping import AbstractArray, jaxtyped

PACKAGES = ("srt", "opsd")
# These validate their arguments themselves, with an error that names the argument.
SELF_VALIDATING = {"exact_kl"}


def missing_checker() -> str | None:
    """None, or why shapes cannot be checked here: the GPU environments do not include beartype."""
    return None if importlib.util.find_spec("beartype") else "beartype is not installed"


def install() -> None:
    """Checks every module of PACKAGES that is imported from now on."""
    loaded = [name for name in PACKAGES if name in sys.modules]
    if loaded:
        raise RuntimeError(f"imported before the shape checks were installed: {', '.join(loaded)}")
    if missing_checker() is None:
        sys.meta_path.insert(0, _CheckedFinder())


class _CheckedFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _CheckedLoader(spec.loader.name, spec.loader.path)
        return spec


class _CheckedLoader(SourceFileLoader):
    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        _check_members(module, module.__name__)


# jaxtyping's own import hook wraps every function, even Triton kernels, which then no longer compile, and hands
# beartype hints that it refuses (`Self` in a Protocol). This one wraps only functions that annotate arrays.
def _check_members(owner: types.ModuleType | type, module: str) -> None:
    for name, member in list(vars(owner).items()):
        if getattr(member, "__module__", module) != module or name in SELF_VALIDATING:
            continue  # imported from another module, or needs no check
        if isinstance(member, type) and member is not owner:
            _check_members(member, module)
        function = _function_of(member)
        if function is not None and any(map(_mentions_array, function.__annotations__.values())):
            setattr(owner, name, jaxtyped(member, typechecker=check_arrays))


def _function_of(member: object) -> types.FunctionType | None:
    if isinstance(member, classmethod | staticmethod):
        member = member.__func__
    elif isinstance(member, property):
        member = member.fget
    return member if isinstance(member, types.FunctionType) else None


def check_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype for the arrays among the function's hints."""
    from beartype import beartype

    function.__annotations__ = {name: only_arrays(hint) for name, hint in function.__annotations__.items()}
    return beartype(function)


def only_arrays(hint: Any) -> Any:
    """The hint with `object` in place of everything that is not an array.

    Lists of arrays are not checked either: their items may differ in T, and beartype would check a random one.
    """
    if _is_array(hint):
        return hint
    arguments = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType) and any(map(_is_array, arguments)):
        return functools.reduce(lambda a, b: a | b, map(_array_or_class, arguments))
    if get_origin(hint) is tuple and Ellipsis not in arguments:
        return tuple[tuple(map(only_arrays, arguments))]
    return object


def _array_or_class(hint: Any) -> Any:
    return hint if _is_array(hint) or isinstance(hint, type) else object


def _mentions_array(hint: Any) -> bool:
    return _is_array(hint) or any(map(_mentions_array, get_args(hint)))


def _is_array(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, AbstractArray)
