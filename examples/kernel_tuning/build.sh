#!/bin/sh
# Compile everything into build/:  CC=clang sh build.sh
# kernel.c is hostile text. It is only compiled, never run, here; what it can ask of the compiler is the list below; and
# it is linked alone into a library that only a worker process loads.
set -euf # f: no word of kernel.c is ever a file pattern
cd "$(dirname "$0")"
LC_ALL=C
export LC_ALL
CC=${CC:-cc}
HARNESS_CFLAGS="-O2 -std=gnu11 -Wall"

fail() { echo "build: $*" >&2; exit 1; }

is_allowed() {
    case $1 in
    -O0 | -O1 | -O2 | -O3 | -Os | -Ofast) ;;
    -march=native | -mtune=native) ;;
    -mprefer-vector-width=128 | -mprefer-vector-width=256 | -mprefer-vector-width=512) ;;
    -ffast-math | -fno-math-errno | -fno-trapping-math | -fassociative-math | -fno-signed-zeros) ;;
    -freciprocal-math | -ffinite-math-only | -ffp-contract=fast | -ffp-contract=off) ;;
    -funroll-loops | -fno-unroll-loops | -funroll-all-loops | -fpeel-loops | -fomit-frame-pointer) ;;
    -ftree-vectorize | -fno-tree-vectorize | -ftree-slp-vectorize | -fno-tree-slp-vectorize) ;;
    -fvectorize | -fno-vectorize | -fslp-vectorize | -fno-slp-vectorize) ;;
    -fvect-cost-model=unlimited | -fvect-cost-model=dynamic | -fvect-cost-model=cheap) ;;
    -fprefetch-loop-arrays | -fno-prefetch-loop-arrays | -fschedule-insns | -fno-schedule-insns) ;;
    -fno-ivopts | -fno-gcse | -fmodulo-sched | -fsched-pressure | -fstrict-aliasing | -fno-strict-aliasing) ;;
    *) return 1 ;;
    esac
}

understands() { $CC -Werror "$@" -x c -c -o build/probe.o - </dev/null >/dev/null 2>&1; }

# What the machine calls its own instruction set differs: -mcpu on arm64, -march on x86-64.
native() {
    case $(uname -m) in
    arm64 | aarch64) if understands -mcpu=native; then echo -mcpu=native; else echo -march=native; fi ;;
    *) echo -march=native ;;
    esac
}

# The flags of: #define KERNEL_CFLAGS "..."
read_flags() {
    count=$(grep -c '^[[:space:]]*#[[:space:]]*define[[:space:]]*KERNEL_CFLAGS' kernel.c || true)
    [ "$count" -le 1 ] || fail "kernel.c defines KERNEL_CFLAGS $count times"
    [ "$count" -eq 1 ] || { echo " -O2"; return; }
    flags=$(sed -n 's/^#define KERNEL_CFLAGS "\([-A-Za-z0-9= ]*\)".*$/\1/p' kernel.c)
    accepted=
    for flag in ${flags:-unreadable}; do
        is_allowed "$flag" || fail "KERNEL_CFLAGS may not contain '$flag'; build.sh has the list"
        [ "$flag" != -march=native ] || flag=$(native)
        if understands "$flag"; then
            accepted="$accepted $flag"
        else
            echo "build: $CC has no $flag here, left out" >&2
        fi
    done
    echo "$accepted"
}

# With limits of 10 s of CPU time, files of 32 MB or so, and 4 GB of memory where the system can (macOS cannot).
limited() (
    ulimit -t 10
    ulimit -f 65536
    ulimit -v 4000000 2>/dev/null || true
    exec "$@" </dev/null >build/kernel.log 2>&1
)

refuse() {
    head -n 20 build/kernel.log | cut -c 1-300 >&2
    fail "$*"
}

mkdir -p build
rm -f build/kernel.so
[ -f kernel.c ] && [ ! -L kernel.c ] || fail "kernel.c is not a plain file"
flags=$(read_flags) || exit 1
link=
[ "$(uname -s)" != Linux ] || link=-Wl,-z,defs # macOS refuses undefined symbols anyway
# An object can be written, in assembler, to look like one for link-time optimisation, with options of its own.
for flag in -fno-lto -fno-use-linker-plugin; do
    ! understands "$flag" || link="$link $flag"
done

# shellcheck disable=SC2086 # CC and the flags are lists of words
{
    $CC $HARNESS_CFLAGS -o build/harness harness.c -lm & harness=$!
    $CC $HARNESS_CFLAGS -o build/worker worker.c -ldl -lm & worker=$!
    $CC -O2 -std=gnu11 -fPIC -shared -o build/reference.so reference.c & reference=$!
    limited $CC -std=gnu11 $flags -fPIC -w -c -o build/kernel.o kernel.c && status=0 || status=$?
    wait $harness && wait $worker && wait $reference || fail "the harness does not compile with $CC"
    [ $status -eq 0 ] || refuse "kernel.c does not compile with$flags (the compiler has 10 s of CPU time and 4 GB)"
    limited $CC -shared -o build/kernel.so build/kernel.o -lm $link ||
        refuse "kernel.c does not link: it may use only the C and the maths library"
}
