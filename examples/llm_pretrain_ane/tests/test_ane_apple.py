"""The C files compiled for macOS on arm64, with declarations of our own for what they use of Apple's headers.

It shows that the calls have the types they are declared with, that nothing is used which macOS lacks, and that the
paths for NEON compile. It cannot show that Apple's headers say the same: ours are written from what is documented.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from ane_build import ANE, EXAMPLE, RUNTIME

STUBS = Path(__file__).parent / "apple_stubs"
FLAGS = ["--target=arm64-apple-macosx15.0", "-ffreestanding", "-nostdlibinc", "-isystem", str(STUBS / "libc")]
FLAGS += [f"-I{STUBS}", f"-I{ANE}", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
SOURCES = sorted(path.name for path in ANE.glob("*.c"))
SETTINGS = '.dim = 128, .hidden = 384, .heads = 4, .kv_heads = 4, .seq = 128, .layers = 2, .architecture = ""'
FRAMEWORKS = """
    CFArrayCreate CFCopyDescription CFDataCreate CFDictionaryCreate CFDictionaryCreateMutable CFDictionarySetValue
    CFErrorGetCode CFErrorGetDomain CFNumberCreate CFRelease CFRetain CFStringCreateWithCString CFStringGetBytes
    CFStringGetCString CFStringGetLength
    __CFConstantStringClassReference kCFTypeArrayCallBacks kCFTypeDictionaryKeyCallBacks
    kCFTypeDictionaryValueCallBacks
    IOSurfaceCreate IOSurfaceGetAllocSize IOSurfaceGetBaseAddress IOSurfaceLock IOSurfaceUnlock kIOSurfaceAllocSize
    kIOSurfaceBytesPerElement kIOSurfaceBytesPerRow kIOSurfaceHeight kIOSurfacePixelFormat kIOSurfaceWidth
    NSTemporaryDirectory
    class_getClassMethod class_getInstanceMethod objc_autoreleasePoolPop objc_autoreleasePoolPush objc_getClass
    objc_msgSend sel_registerName
"""
SYSTEM = """
    __stderrp atexit dlopen fprintf free getenv memset nanosleep pthread_equal pthread_self
    pthread_set_qos_class_self_np qos_class_self snprintf strcmp strlen
"""
OURS = ["folder_make", "folder_remove", "folder_write", "need", "problem"]
OF_THE_COMPILER = {"memcpy", "bzero", "__stack_chk_fail", "__stack_chk_guard"}  # calls that it may put in


def compiled(tmp_path: Path, source: Path, *flags: str, what: str = "-c") -> subprocess.CompletedProcess[str]:
    """What clang says; the object, or with what="-S" the assembly, is tmp_path/object.o."""
    if shutil.which("clang") is None:
        pytest.skip("no clang on this machine")
    (tmp_path / "config.h").write_text(f"#define SETTINGS {{{SETTINGS}}}\n")
    command = ["clang", *FLAGS, f"-I{tmp_path}", *flags, what, str(source), "-o", str(tmp_path / "object.o")]
    return subprocess.run(command, capture_output=True, text=True)


def symbols(path: Path) -> tuple[set[str], set[str]]:
    """Names that a Mach-O object for arm64 defines for others, and those it wants, without the underscore."""
    data = path.read_bytes()
    magic, processor, _, kind, commands = struct.unpack_from("<5I", data)
    assert (magic, processor, kind) == (0xFEEDFACF, 0x0100000C, 1), "no Mach-O object for arm64"
    defined, wanted, at = set(), set(), 32
    for _ in range(commands):
        command, size = struct.unpack_from("<2I", data, at)
        if command == 2:  # LC_SYMTAB
            table, count, strings, _ = struct.unpack_from("<4I", data, at + 8)
            for number in range(count):
                name, kind, _, _, _ = struct.unpack_from("<IBBHQ", data, table + 16 * number)
                if kind & 1 and not kind & 0xE0:  # external, and not for a debugger
                    start = strings + name
                    text = data[start : data.index(b"\0", start)].decode()
                    (wanted if kind & 0x0E == 0 else defined).add(text.removeprefix("_"))
        at += size
    return defined, wanted


@pytest.mark.parametrize("name", SOURCES)
def test_every_file_is_good_for_macos(name: str, tmp_path: Path) -> None:
    # Apple's headers may bring the names of sockets with them.
    flags = ["-include", "sys/socket.h"] if name == RUNTIME else []
    done = compiled(tmp_path, ANE / name, *flags, what="-fsyntax-only")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["fp16.c", "gemm.c"])
def test_neon(name: str, tmp_path: Path) -> None:
    done = compiled(tmp_path, ANE / name, "-O1", what="-S")
    assert done.returncode == 0, done.stderr
    instruction = {"fp16.c": r"\bfcvtn2?\.?[^\n]*\bv\d", "gemm.c": r"\bfml[as]\b[^\n]*\bv\d|\bfml[as]\.4s"}[name]
    assert re.search(instruction, (tmp_path / "object.o").read_text()), "no vector instruction was emitted"


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("base.c", r"mov\tw0, #8\b[^#]*bl\t_clock_gettime"),  # CLOCK_UPTIME_RAW
        ("blas.c", r"bl\t_setenv\b"),
        ("checkpoint_save.c", r"mov\tw1, #51\b[^#]*bl\t_fcntl(.|\n)*bl\t_fsync\b"),  # F_FULLFSYNC
    ],
)
def test_what_only_macos_is_asked_for(name: str, call: str, tmp_path: Path) -> None:
    done = compiled(tmp_path, ANE / name, "-O1", what="-S")
    assert done.returncode == 0, done.stderr
    assert re.search(call, (tmp_path / "object.o").read_text())


def test_the_glue_wants_only_what_macos_has(tmp_path: Path) -> None:
    done = compiled(tmp_path, ANE / "ane.c", "-O0")
    assert done.returncode == 0, done.stderr
    defined, wanted = symbols(tmp_path / "object.o")
    assert defined == {"ane_executor", "ane_qos", "ane_banner"}
    assert wanted - OF_THE_COMPILER == {*FRAMEWORKS.split(), *SYSTEM.split(), *OURS}
    if reader := shutil.which("llvm-nm"):
        listed = subprocess.run([reader, "-u", str(tmp_path / "object.o")], capture_output=True, text=True, check=True)
        assert {line.strip().removeprefix("_") for line in listed.stdout.splitlines()} == wanted


def mutant(tmp_path: Path, old: str, new: str) -> Path:
    text = (ANE / "ane.c").read_text()
    assert text.count(old) == 1, old
    (tmp_path / "mutant.c").write_text(text.replace(old, new))
    return tmp_path / "mutant.c"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("CFDataRef text = CFDataCreate(", "CFStringRef text = CFDataCreate(", "incompatible"),
        ("engine->selectors[WRAP], surface->memory)", "engine->selectors[WRAP])", "too few arguments"),
        (
            "objc_autoreleasePoolPush();\n    bool fine = open",
            "objc_autoreleasePush();\n    bool fine = open",
            "declar",
        ),
        ("engine->selectors[IDENTIFIER])", '"hexStringIdentifier")', "incompatible"),
    ],
    ids=["wrong type", "argument missing", "misspelt", "a name for a selector"],
)
def test_a_mistake_is_noticed(old: str, new: str, words: str, tmp_path: Path) -> None:
    done = compiled(tmp_path, mutant(tmp_path, old, new), what="-fsyntax-only")
    assert done.returncode != 0
    assert words in done.stderr


def test_a_further_symbol_is_noticed(tmp_path: Path) -> None:
    old = "CFStringRef NSTemporaryDirectory(void);"
    source = mutant(tmp_path, old, f"{old}\nvoid *NSClassFromString(CFStringRef name);")
    call = "(Class)objc_getClass(class_names[i])"
    source.write_text(source.read_text().replace(call, 'NSClassFromString(CFSTR(""))'))
    assert compiled(tmp_path, source, "-O0").returncode == 0
    assert "NSClassFromString" in symbols(tmp_path / "object.o")[1]


def linked_on_a_mac(program: str, tmp_path: Path) -> str:
    """The command that links a program, as make would give it on macOS."""
    (tmp_path / "uname").write_text("#!/bin/sh\necho Darwin\n")
    (tmp_path / "uname").chmod(0o755)
    (tmp_path / "build").mkdir(exist_ok=True)
    (tmp_path / "build" / "config.h").write_text("")
    # Within another make, this one would be told that it is.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    command = ["make", "-n", "-B", f"BUILD={tmp_path}/build", f"{tmp_path}/build/{program}"]
    done = subprocess.run(command, cwd=EXAMPLE, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_makefile_links_all_that_is_needed_on_a_mac(tmp_path: Path) -> None:
    """Every name that a file of ours wants and one of ours defines is in the link on macOS, with the frameworks."""
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    names: dict[str, tuple[set[str], set[str]]] = {}
    for path in sorted(ANE.glob("*.c")):
        done = compiled(tmp_path, path, "-O0")
        assert done.returncode == 0, done.stderr
        names[path.stem] = symbols(tmp_path / "object.o")
    ours = {name for defined, _ in names.values() for name in defined}
    for program in ["train", "evaluate", "selftest"]:
        link = linked_on_a_mac(program, tmp_path)
        files = set(re.findall(r"build/(\w+)\.o\b", link))
        assert program in files
        found = {name for file in files for name in names[file][0]}
        assert {name for file in files for name in names[file][1] & ours} <= found
        for framework in ["Foundation", "CoreFoundation", "IOSurface", "Accelerate"]:
            assert f"-framework {framework}" in link
        assert "-lobjc" in link
