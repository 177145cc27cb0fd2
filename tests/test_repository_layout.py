"""The dependency rule: `opsd` may import `srt`, never the reverse; heavy libraries stay where they are needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SRT, OPSD = REPOSITORY / "self-revision-training", REPOSITORY / "self-distillation"
ENTRY_POINTS = {path.stem for folder in (SRT, OPSD) for path in folder.glob("*.py")}
# Libraries that are slow to import or missing from one of the environments, and the modules or packages that may
# import them at module level.
HEAVY = {
    "matplotlib": ["srt.report.plots"],
    "math_verify": ["srt.verifiers.math.expressions"],
    "latex2sympy2_extended": ["srt.verifiers.math.expressions"],
    "trl": ["srt.sft.trainer"],
    "datasets": ["srt.sft.trainer"],
    "accelerate": ["srt.sft.trainer", "srt.sft.weights", "opsd.nemo_rl.worker.dtensor"],
    "peft": ["opsd.local.student", "opsd.local.teacher"],
    "vllm": [],
    "triton": ["opsd.kl.kernels"],
    "ray": ["opsd.nemo_rl.driver", "opsd.nemo_rl.worker"],
    "nemo_rl": ["opsd.nemo_rl.driver", "opsd.nemo_rl.worker"],
    "megatron": [
        "opsd.nemo_rl.worker.megatron",
        "opsd.nemo_rl.worker.megatron_layers",
        "opsd.nemo_rl.worker.megatron_lm_head_hook",
        "opsd.nemo_rl.worker.megatron_pipeline",
        "opsd.nemo_rl.worker.megatron_step",
    ],
}


@cache
def modules() -> dict[str, Path]:
    """Dotted names of all modules and packages of srt and opsd."""
    found = {}
    for folder, package in ((SRT, "srt"), (OPSD, "opsd")):
        for path in (folder / package).rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(node: ast.AST, module_level: bool) -> Iterator[str]:
    """What a file imports: `a.b` for `import a.b`, `a.b.c` for `from a.b import c`; no relative imports."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"relative import in line {child.lineno}"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif module_level and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif module_level and isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        else:
            yield from imports(child, module_level)


@cache
def imports_of(path: Path, module_level: bool = False) -> set[str]:
    return set(imports(ast.parse(path.read_text("utf-8"), str(path)), module_level))


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_srt_never_imports_opsd():
    offenders = [
        name
        for name, path in modules().items()
        if is_within(name, "srt") and any(is_within(imported, "opsd") for imported in imports_of(path))
    ]
    assert offenders == []


def test_nothing_imports_an_entry_point():
    assert len(ENTRY_POINTS) >= 6
    folders = [SRT, OPSD, REPOSITORY / "quickstart", REPOSITORY / "tests"]
    paths = [
        path
        for folder in folders
        for path in folder.rglob("*.py")
        if not any(part.startswith(".") for part in path.relative_to(REPOSITORY).parts)  # environments
    ]
    offenders = [path for path in paths if {name.split(".")[0] for name in imports_of(path)} & ENTRY_POINTS]
    assert offenders == []


def test_modules_do_not_import_each_other_in_a_cycle():
    graph = {
        name: {
            target
            for imported in imports_of(path, module_level=True)
            for target in (imported, imported.rpartition(".")[0])
            if target in modules() and (target == imported or imported not in modules())
        }
        for name, path in modules().items()
    }
    assert graph["opsd.kl"] and graph["srt.collect.run"]  # the graph has edges at all
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_libraries_are_imported_only_where_they_are_needed(library):
    importers = {
        name
        for name, path in modules().items()
        if any(is_within(imported, library) for imported in imports_of(path, module_level=True))
    }
    allowed = HEAVY[library]
    assert {name for name in importers if not any(is_within(name, place) for place in allowed)} == set()
    unused = [place for place in allowed if not any(is_within(name, place) for name in importers)]
    assert unused == [], "remove from HEAVY"


def test_importing_the_packages_does_not_import_torch():
    packages = [
        name
        for name, path in modules().items()
        if path.name == "__init__.py"
        and not is_within(name, "opsd.kl")  # `exact_kl` is the package's one function
    ]
    assert {"srt", "srt.contract", "opsd", "opsd.local"} <= set(packages)
    program = f"import sys, {', '.join(packages)}; print('torch' in sys.modules, 'transformers' in sys.modules)"
    command = [sys.executable, "-c", program]
    environment = {"PYTHONPATH": f"{SRT}:{OPSD}", "PATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr
