"""Documents name only what exists: links, repository paths, modules, commands and knobs."""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PHASES = (ROOT / "self-revision-training", ROOT / "self-distillation")
# What runs write: named in documents, absent from a fresh checkout.
WRITTEN = ("outputs", "train_data", "ckpts", "results", "quickstart_output", "student", "tensorboard")
CHECKED_SUFFIXES = (".py", ".sh", ".yaml", ".yml", ".md", ".toml", ".cff", ".css", ".svg", ".txt", ".in")

CODE_BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
INLINE_CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"[\w.*-]+(?:/[\w.*-]+)*/?")
MODULE = re.compile(r"(?:srt|opsd|quickstart)(?:\.\w+)+")
SCRIPT = re.compile(r"\bbash ([\w./-]+\.sh|\.ci/run)")
PYTHON_FILE = re.compile(r"\bpython ([\w./-]+\.py)")
KNOB = re.compile(r"\b([A-Z][A-Z0-9_]{2,})=")
# Of setup_env.sh, quickstart.sh, vLLM, CUDA, Ray and wandb.
FOREIGN_VARIABLES = {
    "EXTRAS",
    "HF_HUB_OFFLINE",
    "OUTPUT",
    "PLAN",
    "WITH_NEMO_RL",
    "VLLM_BATCH_INVARIANT",
    "VLLM_USE_V2_MODEL_RUNNER",
    "CUDA_VISIBLE_DEVICES",
    "RAY_AUTH_MODE",
    "WANDB_MODE",
}


def repository_files() -> Iterator[Path]:
    for folder, subfolders, files in os.walk(ROOT):
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name not in WRITTEN]
        yield from (Path(folder, name) for name in files)


FILES = list(repository_files())
DOCUMENTS = [path for path in FILES if path.suffix == ".md"]
NAMES = {path.name for path in FILES}

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def anchors(document: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub derives them."""
    headings = re.findall(r"^#+ (.+)$", CODE_BLOCK.sub("", text_of(document)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def exists(path: str, document: Path) -> bool:
    """Relative to the document, the root or a phase's folder; a bare file name anywhere in the repository."""
    if "/" not in path.rstrip("/") and path in NAMES:
        return True
    bases = (document.parent, ROOT, *PHASES)
    return any(any(base.glob(path.rstrip("/"))) for base in bases)


def is_repository_path(code: str) -> bool:
    """Whether inline code claims to be a path of this repository."""
    if not PATH.fullmatch(code) or set(code.split("/")) & set(WRITTEN) or code.startswith(("..", ".venv")):
        return False
    if code.endswith(CHECKED_SUFFIXES):
        return True
    first = code.split("/")[0]
    return "/" in code and any((base / first).is_dir() for base in (ROOT, *PHASES))


def module_exists(name: str) -> bool:
    """`name` is a package, a module, or a name that the source of one contains."""
    package, *rest = name.split(".")
    folder = next(base / package for base in (ROOT, *PHASES) if (base / package).is_dir())
    for index, part in enumerate(rest):
        if (folder / part).is_dir():
            folder = folder / part
            continue
        is_module = (folder / f"{part}.py").is_file()
        source = folder / (f"{part}.py" if is_module else "__init__.py")
        attributes = rest[index + 1 :] if is_module else rest[index:]
        return all(re.search(rf"\b{attribute}\b", text_of(source)) for attribute in attributes)
    return True


@documents
def test_links_lead_somewhere(document):
    broken = []
    for target in LINK.findall(CODE_BLOCK.sub("", text_of(document))):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert broken == []


@documents
def test_repository_paths_and_modules_exist(document):
    code = INLINE_CODE.findall(CODE_BLOCK.sub("", text_of(document)))
    paths = [path for path in code if is_repository_path(path) and not exists(path, document)]
    modules = [name for name in code if MODULE.fullmatch(name) and name not in NAMES and not module_exists(name)]
    assert (paths, modules) == ([], [])


@documents
def test_commands_exist(document):
    commands = [*SCRIPT.findall(text_of(document)), *PYTHON_FILE.findall(text_of(document))]
    assert [path for path in commands if not (ROOT / path).is_file()] == []


@documents
def test_knobs_exist(document):
    configs = "\n".join(text_of(path) for path in (ROOT / "configs").glob("*.yaml"))
    known = set(re.findall(r"oc\.env:(\w+)", configs)) | FOREIGN_VARIABLES
    assert set(KNOB.findall(text_of(document))) - known == set()


def test_the_file_tree_of_the_readme_exists():
    """The annotated tree. An entry is indented below its folder; names beside a path are its siblings."""
    tree = re.search(r"## Where things are\n+```\n(.*?)```", text_of(ROOT / "README.md"), re.DOTALL)
    assert tree
    missing, folder = [], ROOT
    for line in tree[1].splitlines():
        first, *siblings = re.split(r"\s{2,}", line.strip())[0].split()
        path = (folder if line.startswith(" ") else ROOT) / first
        missing += [other for other in (path, *(path.with_name(name) for name in siblings)) if not other.exists()]
        if not line.startswith(" "):
            folder = path
    assert missing == []
