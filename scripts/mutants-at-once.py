#!/usr/bin/env python3
"""Mutation testing with one build for all mutants of a part.

    scripts/mutants-at-once.py protocol|memory|engine|REGEX [FILE]

The mutants are those that `cargo mutants --list` names, in source files that the expression matches; with FILE, only
those that it lists, one name a line (their line and column do not count). Each becomes a copy of its function's body,
and the environment says which copy runs. So the crate is built once, and not once a mutant: minutes in place of hours.

What does not compile is found by `cargo check` and taken out. A mutant is caught if a test fails, and timed out, which
counts as caught, if the tests hang or take ten times their time of processor. Who survives the quick tests meets all
of them. Mutants outside of functions, and in `const fn`, are left to scripts/mutants.sh, and listed as `other`.

Results go to $OUT/PART.tsv (target/mutants): verdict, mutant, and the first test that failed. JOBS run at once (2).
"""

import collections
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time

PARTS = {"protocol": "src/protocol/", "memory": "src/memory/|src/store/cache", "engine": "src/engine/"}
FEATURES = ["--features", "json,sha256,tokio"]
# Tests of a tenth of a second and more: only for those that survive the others.
SLOW = ["hundred_megabytes", "two_purgers_and_racing", "ten_thousand", "a_thousand_threads", "a_waiter_may_wait_for_ever"]
QUICK = {"args": [arg for test in SLOW for arg in ("--skip", test)], "cases": "48", "ticks_max": 700}
ALL = {"args": [], "cases": "256", "ticks_max": 12_000}
HUNG_AFTER_SECONDS = 12

SWITCH = """
pub(crate) fn mutant_id() -> u32 {
    static ID: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *ID.get_or_init(|| std::env::var("MUTANT_ID").map_or(0, |id| id.parse().unwrap()))
}
"""


def without_place(name):
    return re.sub(r":\d+:\d+:", ":", name)


def body_start(text, at, end):
    """Where the braces of the function that begins at `at` open."""
    depth = 0
    while at < end:
        char = text[at]
        if text.startswith("//", at):
            at = text.index("\n", at)
        elif char == '"':
            at += 1
            while text[at] != '"':
                at += 2 if text[at] == "\\" else 1
        elif char in "([":
            depth += 1
        elif char in ")]":
            depth -= 1
        elif char == "{" and depth == 0:
            return at
        at += 1
    raise ValueError("no body")


class Tree:
    """A copy of the repository whose functions hold their mutants too."""

    def __init__(self, folder, target):
        self.folder = folder
        self.env = dict(
            os.environ,
            CARGO_TARGET_DIR=target,
            CARGO_PROFILE_DEV_DEBUG="0",
            CARGO_PROFILE_TEST_DEBUG="0",
            CARGO_INCREMENTAL="1",
            # A mutant may set off lints that are errors, and a function of many bodies has a large frame.
            RUSTFLAGS="--cap-lints=allow",
            RUST_MIN_STACK=str(32 << 20),
        )
        shutil.rmtree(folder, ignore_errors=True)
        files = self.output(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=".").split("\0")
        for file in filter(os.path.isfile, files):
            os.makedirs(os.path.dirname(os.path.join(folder, file)), exist_ok=True)
            shutil.copy(file, os.path.join(folder, file))
        self.live, self.bodies, self.sources = {}, collections.defaultdict(list), {}
        self.unviable, self.other = [], []

    def output(self, command, cwd=None):
        return subprocess.run(command, cwd=cwd or self.folder, capture_output=True, text=True, check=True).stdout

    def cargo(self, *args):
        command = ["cargo", *args, "--message-format=json", *FEATURES]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True)
        return done, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def read(self, pattern, only):
        listed = json.loads(self.output(["cargo", "mutants", "--list", "--json", "-f", "src/**"]))
        for number, mutant in enumerate(listed, 1):
            if not re.search(pattern, mutant["file"]):
                continue
            if only is None or without_place(mutant["name"]) in only:
                self.add(number, mutant)

    def add(self, number, mutant):
        file = mutant["file"]
        if file not in self.sources:
            self.sources[file] = open(os.path.join(self.folder, file)).read()
        text = self.sources[file]
        lines = [0]
        for line in text.split("\n"):
            lines.append(lines[-1] + len(line) + 1)
        place = lambda at: lines[at["line"] - 1] + at["column"] - 1
        if not mutant.get("function"):
            self.other.append(mutant["name"])
            return
        begin, end = (place(mutant["function"]["span"][side]) for side in ("start", "end"))
        opens = body_start(text, begin, end)
        if re.search(r"\bconst\s+fn\b", text[begin:opens]):
            self.other.append(mutant["name"])
            return
        first, last = (place(mutant["span"][side]) for side in ("start", "end"))
        self.live[number] = mutant["name"]
        self.bodies[file, opens, end].append((number, text[opens:first] + mutant["replacement"] + text[last:end]))

    def write(self):
        """Writes the bodies of those that are left; answers who is at which lines of which file."""
        places = collections.defaultdict(list)
        for file, text in self.sources.items():
            out, at = "", 0
            for (_, opens, end), bodies in sorted(item for item in self.bodies.items() if item[0][0] == file):
                out += text[at:opens] + "{ match crate::mutant_id() {\n"
                for number, body in bodies:
                    if number in self.live:
                        line = out.count("\n") + 1
                        out += f"{number} => {body}\n"
                        places[file].append((line, out.count("\n"), number))
                out += f"_ => {text[opens:end]}\n}} }}"
                at = end
            with open(os.path.join(self.folder, file), "w") as written:
                written.write(out + text[at:])
        return places

    def take_out_the_unviable(self):
        with open(os.path.join(self.folder, "src/lib.rs"), "a") as lib:
            lib.write(SWITCH)
        while True:
            places = self.write()
            done, messages = self.cargo("check", "--lib")
            if done.returncode == 0:
                break
            bad = set()
            for message in (m["message"] for m in messages if m["reason"] == "compiler-message"):
                if message["level"] != "error":
                    continue
                spans = sorted(message["spans"], key=lambda span: not span["is_primary"])
                for span in spans:
                    hit = {
                        number
                        for first, last, number in places[span["file_name"]]
                        if first <= span["line_start"] <= last
                    }
                    if hit:
                        bad |= hit
                        break
            if not bad:
                sys.exit(f"an error that is of no mutant:\n{done.stderr}")
            self.unviable += [self.live.pop(number) for number in bad]

    def build(self):
        """The test programs, by name."""
        self.write()
        done, messages = self.cargo("test", "--no-run", "--lib", "--test", "it", "--test", "histories")
        if done.returncode != 0:
            sys.exit(f"the tests do not build:\n{done.stderr}")
        built = [m for m in messages if m["reason"] == "compiler-artifact" and m.get("executable")]
        programs = {m["target"]["name"]: m["executable"] for m in built if m["profile"]["test"]}
        return {name: programs[name] for name in ("oncekey", "it", "histories")}


def ticks(pid):
    """How much processor time the program took, in hundredths of a second."""
    try:
        fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])
    except FileNotFoundError:
        return 0


def run(tree, programs, number, how):
    """The verdict of one mutant, and who gave it; `missed` if the tests pass."""
    env = dict(tree.env, MUTANT_ID=str(number), PROPTEST_CASES=how["cases"])
    for name, program in programs.items():
        command = ["nice", "-n", "10", program, *how["args"]]
        process = subprocess.Popen(
            command, cwd=tree.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        failed = []

        def listen(process=process, failed=failed):
            for line in process.stdout:
                if line.startswith("test ") and line.rstrip().endswith("FAILED"):
                    failed.append(line.split()[1])
                    process.kill()  # one is enough
                    return

        listener = threading.Thread(target=listen)
        listener.start()
        taken, since, timeout = -1, time.monotonic(), None
        while process.poll() is None and not timeout:
            time.sleep(0.05)
            now = ticks(process.pid)
            if now != taken:
                taken, since = now, time.monotonic()
            if time.monotonic() - since > HUNG_AFTER_SECONDS:
                timeout = "hung"
            elif now > how["ticks_max"]:
                timeout = "busy"
        process.kill()
        process.wait()
        listener.join()
        if failed:
            return "caught", f"{name}::{failed[0]}"
        if timeout:
            return "timeout", f"{name} {timeout}"
        if process.returncode != 0:
            return "caught", f"{name} ended with {process.returncode}"
    return "missed", ""


def run_all(tree, programs, how):
    """Verdicts by number, of all that are left."""
    verdict = run(tree, programs, 0, how)
    if verdict[0] != "missed":
        sys.exit(f"the tests fail without a mutant: {verdict}")
    results, todo = {}, queue.Queue()
    for number in sorted(tree.live):
        todo.put(number)

    def work():
        while True:
            try:
                number = todo.get_nowait()
            except queue.Empty:
                return
            results[number] = run(tree, programs, number, how)

    workers = [threading.Thread(target=work) for _ in range(int(os.environ.get("JOBS", "2")))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return results


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    part = sys.argv[1]
    only = None
    if len(sys.argv) == 3:
        only = {without_place(line.strip()) for line in open(sys.argv[2])}
    out = os.path.abspath(os.environ.get("OUT", "target/mutants"))
    tree = Tree(os.path.join(out, "tree"), os.environ.get("CARGO_TARGET_DIR", os.path.join(out, "target")))
    tree.read(PARTS.get(part, part), only)
    tree.take_out_the_unviable()
    print(f"{len(tree.live)} viable, {len(tree.unviable)} not, {len(tree.other)} other", flush=True)
    names, results = dict(tree.live), {}
    for how in (QUICK, ALL):
        # Those that are left, in a build of their own: large futures with few bodies fit every stack.
        programs = tree.build()
        results.update(run_all(tree, programs, how))
        tree.live = {number: names[number] for number, verdict in results.items() if verdict[0] == "missed"}
    for mutant in tree.live.values():
        print(f"missed: {mutant}")
    name = re.sub(r"\W+", "-", part).strip("-")
    with open(os.path.join(out, f"{name}.tsv"), "w") as table:
        for number, (verdict, by) in sorted(results.items()):
            print(verdict, names[number], by, sep="\t", file=table)
        for verdict, listed in (("unviable", tree.unviable), ("other", tree.other)):
            for mutant in sorted(listed):
                print(verdict, mutant, "", sep="\t", file=table)
    print(dict(collections.Counter(verdict for verdict, _ in results.values())))


main()
