"""The languages in which programs are judged: one table. A language is a row; adding one needs nothing else."""

import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from srt.verifiers.types import VerifierError

PROGRAM = "program"  # what a build leaves behind: one file
_CLASS = re.compile(r"\bclass\s+(\w+)")
_PUBLIC_CLASS = re.compile(r"\bpublic\s+(?:final\s+|abstract\s+|strictfp\s+)*class\s+(\w+)")


@dataclass(frozen=True)
class Toolchain:
    """`executable` is where a row's {tool} lies; `roots`: folders outside of /usr that it needs."""

    executable: str
    roots: tuple[Path, ...]


@dataclass(frozen=True)
class Language:
    """A row of the table.

    `fences`: the words after ``` that mean it. `builds`: shell commands that leave PROGRAM behind, tried in turn
    until one succeeds; none: the source is the program. In these and in `run`, {tool}, {bin} (its folder),
    {source}, {name} (the source's without its ending) and {memory} (MB, in `run`) are filled in, and by the
    sandbox {box}. `processes`: processes and threads that it may have. `address_space`: whether its limit makes
    sense: the JVM and Go reserve much more than they use.
    """

    name: str
    fences: tuple[str, ...]
    tool: str
    package: str
    source: Callable[[str], str]
    builds: tuple[str, ...]
    run: tuple[str, ...]
    needs_tool: bool = False  # to run, not only to be built
    processes: int = 16
    address_space: bool = True


def _java_source(program: str) -> str:
    """Named after the class to start: a public one, which must lie in a file of its name, or the one with main."""
    public, before_main = _PUBLIC_CLASS.findall(program), _CLASS.findall(program.partition(" void main")[0])
    return f"{(public[:1] or before_main[-1:] or ['Main'])[0]}.java"


def _cpp(standard: str) -> str:
    return f"{{tool}} -O2 -std={standard} -w -pipe -DONLINE_JUDGE -o {PROGRAM} {{source}}"


LANGUAGES = (
    Language(
        "Python",
        ("python", "python3", "py", "py3"),
        "python",
        "python3",
        lambda _: "program.py",
        builds=(),
        run=("{tool}", "{box}/program.py"),
        needs_tool=True,
    ),
    Language(
        # Some programs mean C++17, some C++20, and the two are not quite compatible.
        "C++",
        ("cpp", "c++", "cc", "cxx", "cpp17", "cpp20", "c++17", "c++20"),
        "g++",
        "g++",
        lambda _: "program.cpp",
        builds=(_cpp("gnu++17"), _cpp("gnu++20")),
        run=(f"{{box}}/{PROGRAM}",),
    ),
    Language(
        "C",
        ("c",),
        "gcc",
        "gcc",
        lambda _: "program.c",
        builds=(f"{{tool}} -O2 -std=gnu17 -w -pipe -DONLINE_JUDGE -o {PROGRAM} {{source}} -lm",),
        run=(f"{{box}}/{PROGRAM}",),
    ),
    Language(
        "Java",
        ("java",),
        "javac",
        "default-jdk-headless",
        _java_source,
        builds=(
            "{tool} -J-XX:+UseSerialGC -nowarn -d classes {source} && "
            f"{{bin}}/jar --create --file {PROGRAM} --main-class {{name}} -C classes .",
        ),
        run=(
            "{bin}/java",
            "-Xmx{memory}m",
            "-Xss64m",
            "-XX:+UseSerialGC",
            "-XX:-UsePerfData",
            "-jar",
            f"{{box}}/{PROGRAM}",
        ),
        needs_tool=True,
        processes=64,
        address_space=False,
    ),
    Language(
        "Go",
        ("go", "golang"),
        "go",
        "golang-go",
        lambda _: "program.go",
        builds=(f"GOCACHE=/tmp/cache GOPATH=/tmp/go GO111MODULE=off {{tool}} build -o {PROGRAM} {{source}}",),
        run=(f"{{box}}/{PROGRAM}",),
        processes=64,
        address_space=False,
    ),
    Language(
        "Rust",
        ("rust", "rs"),
        "rustc",
        "rustc",
        lambda _: "program.rs",
        builds=(f"{{tool}} -O --edition 2021 --cap-lints allow -o {PROGRAM} {{source}}",),
        run=(f"{{box}}/{PROGRAM}",),
    ),
)
BY_NAME = {language.name: language for language in LANGUAGES}
BY_FENCE = {fence: language for language in LANGUAGES for fence in language.fences}
PYTHON = BY_NAME["Python"]


@functools.cache
def find_toolchain(language: Language) -> Toolchain | None:
    """Where the language's compiler or interpreter is; None when it is not installed."""
    if language is PYTHON:  # the one that runs this, without the packages of its environment
        return Toolchain(sys._base_executable, _outside_usr(Path(sys.base_prefix)))
    found = shutil.which(language.tool)
    if found is None:
        return None
    path = Path(found).resolve()
    # What is found may only stand in for the real one, which it looks for in the home folder (rustup).
    home_of = {"Rust": ("--print", "sysroot"), "Go": ("env", "GOROOT")}
    if language.name in home_of:
        asked = subprocess.run([found, *home_of[language.name]], capture_output=True, text=True)
        if asked.returncode:
            return None
        path = Path(asked.stdout.strip(), "bin", language.tool)
    roots = _outside_usr(path.parents[1])
    if language.name == "Java":  # whose settings Debian keeps apart
        roots += tuple(Path("/etc").glob("java-*"))
    return Toolchain(str(path), roots)


def toolchain(language: Language) -> Toolchain:
    """Raises VerifierError when it is missing: that is our failure, and no verdict."""
    found = find_toolchain(language)
    if found is None:
        raise VerifierError(
            f"{language.tool} is not installed: programs in {language.name} cannot be judged; install it (Debian "
            f"and Ubuntu: apt-get install {language.package})",
            f"no compiler for {language.name}",
        )
    return found


def installed_roots() -> list[Path]:
    """The folders outside of /usr that the installed compilers need."""
    found = (find_toolchain(language) for language in LANGUAGES)
    return sorted({root for one in found if one for root in one.roots})


def _outside_usr(folder: Path) -> tuple[Path, ...]:
    return () if folder.is_relative_to("/usr") else (folder,)
