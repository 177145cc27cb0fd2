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

from srt.verifiers.code.deadline import bounded
from srt.verifiers.code.java_source import java_file_name, java_main_class
from srt.verifiers.types import VerifierError

PROGRAM = "program"  # the one file that a build produces
# Words of a fence: "```GNU C++17 (GCC 7-32)", "```{.python}", "```py title='a.py'". A version may be part of the
# word or follow it.
_FENCE_WORD = re.compile(
    r"(?P<word>[a-z][a-z+#]*+)(?!-repl|-console)(?P<version>[0-9][\w.]*+)?+(?:[ \t]++(?P<next>[0-9.]++)(?!\S))?+"
)
_FILE_NAME = re.compile(r"\S{1,100}\.(py|cpp|cc|cxx|c|java|go|rs)(?!\S)")
_FENCE_PREFIXES = ("gnu", "ms", "microsoft", "visual", "language", "lang")
_CPP_STANDARDS = {
    "14": ("98", "03", "0x", "11", "1y", "14"),  # programs for C++98 and C++11 are programs for C++14
    "17": ("1z", "17"),
    "20": ("2a", "20"),
    "23": ("2b", "23", "2c", "26"),
}


@dataclass(frozen=True)
class Toolchain:
    """`executable`: the path of a compiler or interpreter; `roots`: the folders outside /usr that it needs."""

    executable: str
    roots: tuple[Path, ...]


@dataclass(frozen=True)
class Language:
    """An entry of the table.

    `fences`: the words after ```, without a version, that stand for it. `tool`: its compiler or interpreter;
    `package`: the Debian package that provides it. `source`: program text -> file name. `build`: the shell command
    that produces PROGRAM; none: the source is the program. `standards`: versions of the language with which that
    is tried, in order, until one succeeds; `standard`: the one that a version in a fence asks for first, "" for
    none in particular, None for a version that cannot be judged. `run`: the command that runs it; `needs_tool`:
    whether that needs the compiler's folders, too. `command_line` fills in the placeholders of `build` and
    `run`. `processes`: the most processes and threads it may have. `address_space`: whether to limit it; the JVM
    and Go reserve much more than they use. `runtime_mb`: memory of the runtime itself, on top of the problem's
    limit.
    """

    name: str
    fences: tuple[str, ...]
    tool: str
    package: str
    source: Callable[[str], str]
    build: str
    run: tuple[str, ...]
    needs_tool: bool = False
    processes: int = 16
    address_space: bool = True
    runtime_mb: float = 0
    standards: tuple[str, ...] = ("",)
    standard: Callable[[str], str | None] = lambda _: ""

    def __reduce__(self) -> tuple[Callable[[str], "Language"], tuple[str]]:
        """Between processes a language is its name."""
        return language_named, (self.name,)


def language_named(name: str) -> "Language":
    return BY_NAME[name]


def _cpp_standard(version: str) -> str | None:
    """The standard that a version in a fence stands for; none: any ("g++ 7.3.0")."""
    return next((standard for standard, names in _CPP_STANDARDS.items() if version in names), "")


def _python_standard(version: str) -> str | None:
    return None if version.startswith("2") else ""  # there is no Python 2 here to judge it by


LANGUAGES = (
    Language(
        "Python",
        ("python", "py", "pypy", "ipython"),
        "python",
        "python3",
        lambda _: "program.py",
        build="",
        run=("{tool}", "{box}/program.py"),
        needs_tool=True,
        standard=_python_standard,
    ),
    Language(
        "C++",
        ("cpp", "c++", "cc", "cxx", "g++", "gnu++", "clang++", "cplusplus"),
        "g++",
        "g++",
        lambda _: "program.cpp",
        build=f"{{tool}} -O2 -std=gnu++{{standard}} -w -pipe -DONLINE_JUDGE -o {PROGRAM} {{source}}",
        run=(f"{{box}}/{PROGRAM}",),
        # Some programs are written for C++17, some for C++20, and the two are not fully compatible.
        standards=("17", "20"),
        standard=_cpp_standard,
    ),
    Language(
        "C",
        ("c", "gcc"),
        "gcc",
        "gcc",
        lambda _: "program.c",
        build=f"{{tool}} -O2 -std=gnu17 -w -pipe -DONLINE_JUDGE -o {PROGRAM} {{source}} -lm",
        run=(f"{{box}}/{PROGRAM}",),
    ),
    Language(
        "Java",
        ("java",),
        "javac",
        "default-jdk-headless",
        lambda source: bounded(java_file_name, source),
        build="{tool} -J-XX:+UseSerialGC -nowarn -encoding UTF-8 -d classes {source} && "
        f"{{bin}}/jar --create --file {PROGRAM} --main-class '{{main}}' -C classes .",
        # As Codeforces and the runner of open-r1/codeforces start it, with the collector that needs no threads.
        # They limit the heap, not the process; so the runtime's own memory comes on top here.
        run=(
            "{bin}/java",
            "-XX:NewRatio=5",
            "-Xms8M",
            "-Xmx{memory}M",
            "-Xss64M",
            "-XX:+UseSerialGC",
            "-XX:-UsePerfData",
            "-DONLINE_JUDGE=true",
            "-Duser.language=en",
            "-Duser.region=US",
            "-Duser.variant=US",
            "-jar",
            f"{{box}}/{PROGRAM}",
        ),
        needs_tool=True,
        processes=64,
        address_space=False,
        runtime_mb=256,
    ),
    Language(
        "Go",
        ("go", "golang"),
        "go",
        "golang-go",
        lambda _: "program.go",
        build=f"GOCACHE=/tmp/cache GOPATH=/tmp/go GO111MODULE=off {{tool}} build -o {PROGRAM} {{source}}",
        run=(f"{{box}}/{PROGRAM}",),
        processes=64,
        address_space=False,
    ),
    Language(
        "Rust",
        ("rust", "rs", "rustc"),
        "rustc",
        "rustc",
        lambda _: "program.rs",
        build=f"{{tool}} -O --edition 2021 --cap-lints allow -o {PROGRAM} {{source}}",
        run=(f"{{box}}/{PROGRAM}",),
    ),
)
BY_NAME = {language.name: language for language in LANGUAGES}
BY_FENCE = {fence: language for language in LANGUAGES for fence in language.fences}
PYTHON = BY_NAME["Python"]


def language_of_fence(info: str) -> tuple[Language, str] | None:
    """The language, and the standard to try first, that the text after a fence names; None for any other text.

    The first word counts, after vendors ("GNU C++17"). It may carry a version, or be followed by one; or it is the
    name of a file.
    """
    words = info.lower().replace("c/c++", "c++")
    if match := _FILE_NAME.match(words):
        words = match[1]
    for match in _FENCE_WORD.finditer(words):
        if match["word"] in _FENCE_PREFIXES and not match["version"]:
            continue
        language = BY_FENCE.get(match["word"])
        standard = language.standard(match["version"] or match["next"] or "") if language else None
        return (language, standard) if language and standard is not None else None
    return None


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


def command_line(
    language: Language, parts: tuple[str, ...], source: str, memory_mb: float = 0, standard: str = ""
) -> list[str]:
    """`parts` of a build or run command with their placeholders filled in; `source`: the program's text.

    {tool}: the executable; {bin}: its folder; {source}: the source file; {main}: Java's main class; {memory}: MB;
    {standard}: see Language.standards. {box} is left to the sandbox. Raises VerifierError when the toolchain is
    missing.
    """
    tool = toolchain(language).executable
    values = {
        "tool": tool,
        "bin": os.path.dirname(tool),
        "source": "{box}/" + language.source(source),
        "main": bounded(java_main_class, source) if language.name == "Java" else "",
        "memory": str(int(memory_mb)),
        "standard": standard,
        "box": "{box}",
    }
    return [part.format(**values) for part in parts]


def _outside_usr(folder: Path) -> tuple[Path, ...]:
    return () if folder.is_relative_to("/usr") else (folder,)
