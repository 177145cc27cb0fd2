"""Compiles programs, inside the sandbox."""

import re
from dataclasses import replace

from srt.verifiers.code.extract import Program
from srt.verifiers.code.failures import check_run, exceeded_limit
from srt.verifiers.code.languages import PROGRAM, command_line, toolchain
from srt.verifiers.code.sandbox.limits import MAX_NAME_BYTES, Limits
from srt.verifiers.code.sandbox.process import RunResult
from srt.verifiers.code.sandbox.sandbox import Sandbox

BUILD_LIMITS = Limits(
    cpu_seconds=30, wall_seconds=60, memory_mb=2048, output_bytes=128 * 2**20, processes=256, stack_mb=16
)


class CompileError(Exception):
    """The program does not compile; the message is the compiler's first error."""


def build(program: Program, sandbox: Sandbox) -> bytes:
    """The executable file; the source itself for a language that is not compiled.

    Raises CompileError, and VerifierError when the compiler or interpreter is missing.
    """
    language = program.language
    toolchain(language)  # raises for a missing interpreter, too
    source = program.source.encode("utf-8", "replace")
    if not language.build:
        return source
    name = language.source(program.source)
    if len(name.encode()) > MAX_NAME_BYTES:
        raise CompileError(f"the file name {name[:40]}... is too long")
    limits = replace(BUILD_LIMITS, address_space=language.address_space)
    error = ""
    for standard in dict.fromkeys((*filter(None, [program.standard]), *language.standards)):
        command = command_line(language, (language.build,), program.source, standard=standard)[0]
        # The sandbox disappears with the run, so the executable leaves it as standard output.
        script = f"{command} >&2 && cat {PROGRAM}"
        result = sandbox.run(["/bin/sh", "-c", script], {name: source}, b"", limits)
        check_run(result)
        if limit := exceeded_limit(result, limits):
            raise CompileError(f"the compiler exceeded its {limit}")  # another standard would not be faster
        if result.exit_code == 0:
            return result.stdout
        error = _first_error(result, name)
        if "Killed signal" in result.stderr:  # GCC's driver about the process that the limit killed
            raise CompileError(f"the compiler was killed: {error}")
    raise CompileError(error)


def _first_error(result: RunResult, source_name: str) -> str:
    lines = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.strip().splitlines()
    message = lines[0].strip()[:300] if lines else "no message"
    return re.sub(rf"\S*/(?={re.escape(source_name)})", "", message)
