"""The run: compile program.c twice, with plain flags and with those of flags.ini. Immutable.

    python3 build.py
    CC=clang python3 build.py

flags.ini is untrusted: each of its words has to be one of ALLOWED, and none of them reaches a shell or the linker. The
list holds what changes speed and nothing else: no flag that may change results, names a file, defines a macro or loads
anything.
"""

import configparser
import os
import platform
import shlex
import subprocess
import sys

ALLOWED = {
    *("-O0", "-O1", "-O2", "-O3", "-Os"),
    *("-march=native", "-mtune=native", "-mprefer-vector-width=128", "-mprefer-vector-width=256"),
    *("-mprefer-vector-width=512", "-funroll-loops", "-fno-unroll-loops", "-fpeel-loops", "-fsplit-loops"),
    *("-ftree-vectorize", "-fno-tree-vectorize", "-fno-tree-slp-vectorize", "-fvectorize", "-fno-vectorize"),
    *("-fvect-cost-model=unlimited", "-fvect-cost-model=dynamic", "-fvect-cost-model=cheap"),
    *("-fprefetch-loop-arrays", "-fomit-frame-pointer", "-fno-omit-frame-pointer", "-fno-inline", "-finline-functions"),
    *("-fno-builtin", "-fno-gcse", "-fno-ivopts", "-fschedule-insns", "-fno-schedule-insns", "-fsched-pressure"),
    *("-fmodulo-sched", "-falign-functions=64", "-falign-loops=32", "-fno-strict-aliasing", "-fno-plt"),
    *("-fstack-protector-strong", "-fno-stack-protector"),
}
PLAIN = ["-O2"]
# After the others, so that they have the last word: a multiplication and an addition stay two roundings.
FIXED = ["-std=c11", "-ffp-contract=off", "-fno-fast-math"]
MAX_BYTES = 10_000
SECONDS = 30


def main() -> None:
    flags = read_flags()
    os.makedirs("build", exist_ok=True)
    compile_with(PLAIN, "build/plain")
    compile_with(flags, "build/tuned")
    print(f"flags: {' '.join(flags) or 'none'}")


def read_flags() -> list[str]:
    if os.path.islink("flags.ini") or not os.path.isfile("flags.ini") or os.path.getsize("flags.ini") > MAX_BYTES:
        sys.exit("flags.ini is not a small plain file")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with open("flags.ini", encoding="utf-8") as file:
            parser.read_file(file)
        values = parser["flags"].values()
    except (configparser.Error, KeyError, UnicodeDecodeError) as error:
        sys.exit(f"flags.ini cannot be read: {error}")
    flags = [flag for value in values for flag in value.split() if flag != "none"]
    for flag in flags:
        if flag not in ALLOWED:
            sys.exit(f"flags.ini may not contain {flag!r}; build.py has the list")
    return flags


def compile_with(flags: list[str], output: str) -> None:
    # On arm64 most compilers call it by another name.
    native = {"-march=native": "-mcpu=native"} if platform.machine() in ("arm64", "aarch64") else {}
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    command = [*compiler, *(native.get(flag, flag) for flag in flags), *FIXED, "program.c", "-o", output]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=SECONDS, check=False)
    except FileNotFoundError:
        sys.exit(f"there is no C compiler `{compiler[0]}`: install one, or set CC")
    except subprocess.TimeoutExpired:
        sys.exit(f"compiling took more than {SECONDS} seconds")
    if done.returncode:
        sys.exit(f"the compiler refused: {shlex.join(command)}")


if __name__ == "__main__":
    main()
