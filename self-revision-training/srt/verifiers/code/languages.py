"""The languages in which programs are judged: one table. To add a language, add an entry."""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from srt.verifiers.types import VerifierError

PROGRAM = "program"  # the one file that a build produces
_CLASS = re.compile(r"\bclass\s+(\w+)")
_PUBLIC_CLASS = re.compile(r"\bpublic\s+(?:final\s+|abstract\s+|strictfp\s+)*class\s+(\w+)")


@dataclass(frozen=True)
class Toolchain:
    """`executable`: the path of a compiler or interpreter; `roots`: the folders outside /usr that it needs."""

    executable: str
    roots: tuple[Path, ...]


@dataclass(frozen=True)
class Language:
    """An entry of the table.

    `fences`: the words after ``` that stand for it. `tool`: its compiler or interpreter; `package`: the Debian
    package that provides it. `source`: program text -> file name. `builds`: shell commands that produce PROGRAM,
    tried in order until one succeeds; none: the source is the program. `run`: the command that runs it;
    `needs_tool`: whether that needs the compiler's folders, too. `command_line` fills in the placeholders of
    `builds` and `run`. `processes`: the most processes and threads it may have. `address_space`: whether to
    limit it; the JVM and Go reserve much more than they use.
    """

    name: str
    fences: tuple[str, ...]
    tool: str
    package: str
    source: Callable[[str], str]
    builds: tuple[str, ...]
    run: tuple[str, ...]
    needs_tool: bool = False
    processes: int = 16
    address_space: bool = True


def _java_source(program: str) -> str:
    """Named after the main class: the public one, whose file must have its name, or else the one with main()."""
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
        # Some programs are written for C++17, some for C++20, and the two are not fully compatible.
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
# Commands that print where the real toolchain is: what is found on PATH may be a proxy that looks it up in the
# home folder (rustup).
HOME_COMMANDS = {"Rust": ("--print", "sysroot"), "Go": ("env", "GOROOT")}


@functools.cache
def find_toolchain(language: Language) -> Toolchain | None:
    """The language's compiler or interpreter; None when it is not installed."""
    if language is PYTHON:  # the interpreter that runs us, without the packages of its virtual environment
        executable = getattr(sys, "_base_executable", sys.executable)
        return Toolchain(executable, _outside_usr(Path(sys.base_prefix)))
    found = shutil.which(language.tool)
    if found is None:
        return None
    path = Path(found).resolve()
    if language.name in HOME_COMMANDS:
        result = subprocess.run([found, *HOME_COMMANDS[language.name]], capture_output=True, text=True)
        if result.returncode:
            return None
        path = Path(result.stdout.strip(), "bin", language.tool)
    roots = _outside_usr(path.parents[1])
    if language.name == "Java":  # Debian keeps its settings in /etc
        roots += tuple(Path("/etc").glob("java-*"))
    return Toolchain(str(path), roots)


def toolchain(language: Language) -> Toolchain:
    """Raises VerifierError when it is missing: that is our failure, not a verdict."""
    found = find_toolchain(language)
    if found is None:
        raise VerifierError(
            f"{language.tool} is not installed: programs in {language.name} cannot be judged; install it (Debian "
            f"and Ubuntu: apt-get install {language.package})",
            f"no compiler for {language.name}",
        )
    return found


def installed_roots() -> list[Path]:
    """The folders outside /usr that the installed compilers need."""
    toolchains = (find_toolchain(language) for language in LANGUAGES)
    return sorted({root for found in toolchains if found for root in found.roots})


def command_line(language: Language, parts: tuple[str, ...], source: str, memory_mb: float = 0) -> list[str]:
    """`parts` of a build or run command with their placeholders filled in.

    {tool}: the executable; {bin}: its folder; {source}: the source file; {name}: its name without the extension;
    {memory}: MB. {box} is left to the sandbox. Raises VerifierError when the toolchain is missing.
    """
    tool = toolchain(language).executable
    values = {
        "tool": tool,
        "bin": os.path.dirname(tool),
        "source": "{box}/" + source,
        "name": source.rsplit(".", 1)[0],
        "memory": str(int(memory_mb)),
        "box": "{box}",
    }
    return [part.format(**values) for part in parts]


def _outside_usr(folder: Path) -> tuple[Path, ...]:
    return () if folder.is_relative_to("/usr") else (folder,)
