#!/usr/bin/env python3
"""Checks the compiler's messages where a bound of ours is not met.

Each file of tests/messages must not compile, and the compiler must say each text that the file has after `//~`.
The whole message is not compared: it differs from one compiler to the next.

    scripts/messages.py            check; prints what is missing and ends with 1
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "messages"

MANIFEST = """
[package]
name = "messages"
version = "0.0.0"
edition = "2024"

[dependencies]
oncekey = {{ path = "{root}" }}
oncekey-blocking = {{ path = "{root}/blocking" }}
serde = {{ version = "1", features = ["derive"] }}
thiserror = "2"

[workspace]
"""


def project(cases):
    """A crate with one program for each case."""
    folder = TARGET / "crate"
    shutil.rmtree(folder, ignore_errors=True)
    programs = folder / "src" / "bin"
    programs.mkdir(parents=True)
    (folder / "Cargo.toml").write_text(MANIFEST.format(root=ROOT))
    shutil.copy(ROOT / "Cargo.lock", folder / "Cargo.lock")
    for case in cases:
        shutil.copy(case, programs / case.name)
    return folder


def said(folder):
    """What the compiler says of each program; stops if anything else does not build."""
    command = ["cargo", "check", "--quiet", "--bins", "--keep-going", "--message-format", "json"]
    ran = subprocess.run(command, cwd=folder, env={**os.environ, "CARGO_TARGET_DIR": str(TARGET)}, capture_output=True, text=True)
    texts = {}
    for line in ran.stdout.splitlines():
        found = json.loads(line)
        if found["reason"] == "compiler-message" and found["target"]["kind"] == ["bin"]:
            if found["message"]["level"] == "error":
                texts.setdefault(found["target"]["name"], []).append(found["message"]["rendered"])
    if not texts:
        sys.exit(f"no program was compiled:\n{ran.stderr}")
    return {name: "\n".join(parts) for name, parts in texts.items()}


def main():
    cases = sorted((ROOT / "tests" / "messages").glob("*.rs"))
    if not cases:
        sys.exit("tests/messages has no cases")
    texts, missing = said(project(cases)), 0
    for case in cases:
        text = texts.get(case.stem)
        expected = [line[3:].strip() for line in case.read_text().splitlines() if line.startswith("//~")]
        lost = ["it does not compile"] if text is None else [part for part in expected if part not in text]
        if not expected:
            lost.append("a text after `//~`")
        for part in lost:
            missing += 1
            print(f"{case.name}: the compiler does not say: {part}", file=sys.stderr)
        if text is not None and lost:
            print(text, file=sys.stderr)
    print(f"{len(cases)} programs that must not compile, {missing} texts missing")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
