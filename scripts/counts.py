#!/usr/bin/env python3
"""Counts instructions and allocations of an operation over the memory store, and compares them with benches/counts.txt.

    scripts/counts.py            counts, prints a table, and ends with 1 if a figure is 3 % off the committed one
    scripts/counts.py --write    counts, and writes the figures to that file

benches/counts.rs runs under valgrind's tool callgrind, twice for each line: a short run and a long one. Their difference,
over the number of operations between them, is an operation's share; set-up cancels. Allocations are the calls of malloc,
calloc, realloc and their kin that callgrind saw. Both are exact however busy the machine is. They do not see time spent
in system calls, on cache misses or on reading the clock: benches/ratios.rs does.

Another compiler or C library counts a little differently: renew the figures with the toolchain, apart from other changes.

Ends with 3 where valgrind is missing. Needs Linux, Python 3 and about a minute once it is built.
"""

import json
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURES = ROOT / "benches" / "counts.txt"
TOLERANCE = 0.03

# What is counted: a kind of benches/counts.rs, its short run and its long one. Fresh claims are
# counted while the tables double once, so that the price of growing is in.
KINDS = {
    "fresh run": ("fresh", 5_000, 10_000),
    "hot replay": ("hot", 2_000, 12_000),
    "replay, 100,000 keys": ("keys", 2_000, 12_000),
    "polls of 500": ("polls", 5_000, 10_000),
}
OBSERVERS = ["plain", "observed"]
ALLOCATING = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"}


def built():
    """The path of the bench's binary."""
    command = ["cargo", "bench", "--bench", "counts", "--no-run", "--message-format=json-render-diagnostics"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    paths = [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "counts"]
    return paths[-1]


def counted(binary, kind, operations, observer):
    """Instructions and allocations of a whole run."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out"
        command = [
            "valgrind", "--quiet", "--tool=callgrind", "--compress-strings=no", f"--callgrind-out-file={out}",
            binary, kind, str(operations), observer,
        ]
        subprocess.run(command, check=True)
        instructions, allocations, callee = None, 0, ""
        for line in out.read_text().splitlines():
            if line.startswith("cfn="):
                callee = line[4:]
            elif line.startswith("calls=") and callee in ALLOCATING:
                allocations += int(line[6:].split()[0])
            elif line.startswith(("summary:", "totals:")):
                instructions = int(line.split()[1])
    if instructions is None or allocations == 0:
        sys.exit("callgrind told no total, or saw no call of malloc: this script reads the output of valgrind 3.19")
    return instructions, allocations


def measured(binary):
    """For each line of the table, instructions and allocations of one operation."""
    figures = {}
    for name, (kind, short, long) in KINDS.items():
        for observer in OBSERVERS:
            less, more = (counted(binary, kind, operations, observer) for operations in (short, long))
            share = [(b - a) / (long - short) for a, b in zip(less, more)]
            figures[name, observer] = (round(share[0]), round(share[1], 2))
    return figures


def committed():
    """The figures on file, and the toolchain that they are of."""
    figures, toolchain = {}, "none"
    for line in FIGURES.read_text().splitlines() if FIGURES.exists() else []:
        if found := re.fullmatch(r"(.*\S) +(plain|observed) +(\d+) +([\d.]+)", line):
            name, observer, instructions, allocations = found.groups()
            figures[name, observer] = (int(instructions), float(allocations))
        elif line.startswith("# of "):
            toolchain = line[5:]
    return figures, toolchain


def write(figures, toolchain):
    lines = ["# Instructions and allocations of one operation. Written by scripts/counts.py --write.", f"# of {toolchain}"]
    for (name, observer), (instructions, allocations) in figures.items():
        lines.append(f"{name:<22} {observer:<9} {instructions:>7} {allocations:>7.2f}")
    FIGURES.write_text("\n".join(lines) + "\n")


def main():
    if sys.argv[1:] not in ([], ["--write"]):
        sys.exit(__doc__)
    if shutil.which("valgrind") is None:
        print(
            "valgrind is not in the PATH, and nothing was counted.\n"
            "Install it (Debian and Ubuntu: apt-get install valgrind; Fedora: dnf install valgrind).",
            file=sys.stderr,
        )
        sys.exit(3)
    rustc = subprocess.run(["rustc", "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    toolchain = f"{rustc}, {' '.join(platform.libc_ver())}, {platform.machine()}"
    known, known_toolchain = committed()
    figures = measured(built())
    wrong = 0
    print(f"{'':<22} {'':<9} {'instructions':>20} {'allocations':>18}")
    print(f"{'operation':<22} {'observer':<9} {'now':>10} {'on file':>9} {'now':>9} {'on file':>8}")
    for line, now in figures.items():
        before = known.get(line)
        off = before is None or any(abs(a - b) > TOLERANCE * b for a, b in zip(now, before))
        wrong += off
        instructions, allocations = before or ("-", "-")
        print(
            f"{line[0]:<22} {line[1]:<9} {now[0]:>10} {instructions:>9} {now[1]:>9.2f} {allocations:>8}"
            + ("  off" if off else "")
        )
    if sys.argv[1:] == ["--write"]:
        write(figures, toolchain)
        return
    if known_toolchain != toolchain:
        print(f"note: the file is of {known_toolchain}; this is {toolchain}", file=sys.stderr)
    if wrong:
        print(
            f"{wrong} lines are more than 3 % off. If the change is meant, scripts/counts.py --write renews them.",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
