#!/usr/bin/env python3
"""Checks the structure of the workspace from its `use` lines.

Two rules:
  1. no circle: no files of a crate's src/ that need each other, directly or through others;
  2. no way up: in the core, no layer names a layer above it (the list is LAYERS below).

A re-export (`pub use child::Name`) in a module's own file is its face and no need, unless the file also uses the name.
Test modules do not count.

    scripts/structure.py               check; prints what is wrong and ends with 1
    scripts/structure.py --self-test   plants a wrong `use` of each kind in a copy and expects the check to fail
"""

import pathlib
import re
import shutil
import sys
import tempfile

# The core's top-level modules, from the ground up. A module may name those of its own floor and of the floors below.
LAYERS = [
    {"sync", "random", "words"},
    {"protocol"},
    {"codec", "kept", "time"},
    {"store"},
    {"memory", "observe"},
    {"engine"},
    {"guide"},
]

# Where crates are; each folder here that has a manifest and a src/ is checked. The core is the root.
PLACES = [".", "*", "stores/*", "proof/*"]

TOKEN = re.compile(
    r'//[^\n]*|/\*.*?\*/|r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\.[^\']*|[^\'\\])\'', re.DOTALL
)


def crates(root):
    """The folders of the crates, from the root."""
    found = {place.parent for pattern in PLACES for place in root.glob(f"{pattern}/Cargo.toml")}
    return sorted(str(folder.relative_to(root)) for folder in found if (folder / "src").is_dir())


def without_text(source):
    """The source without comments, strings and character literals; line breaks stay."""
    return TOKEN.sub(lambda found: "\n" * found.group().count("\n"), source)


def block_end(source, start):
    """The place after the block that opens at or after `start`."""
    depth, place = 0, source.index("{", start)
    for place in range(place, len(source)):
        depth += {"{": 1, "}": -1}.get(source[place], 0)
        if depth == 0:
            return place + 1
    return len(source)


def without_tests(source):
    """The source without what `#[cfg(test)]` stands before."""
    while found := re.search(r"#\[cfg\(test\)\]\s*", source):
        rest = source[found.end():]
        item = re.match(r"(?:#\[[^\]]*\]\s*)*[^;{]*", rest)
        ends_at_once = rest[item.end():item.end() + 1] == ";"
        end = found.end() + item.end() + 1 if ends_at_once else block_end(source, found.end() + item.end())
        source = source[:found.start()] + source[end:]
    return source


def leaves(tree, prefix=()):
    """The paths of a use tree, each with the name that it is known by here."""
    tree = tree.strip()
    if "{" in tree:
        head, _, body = tree.partition("{")
        head = tuple(part for part in head.replace(" ", "").split("::") if part)
        depth, item, items = 0, "", []
        for sign in body.rsplit("}", 1)[0] + ",":
            depth += {"{": 1, "}": -1}.get(sign, 0)
            if sign == "," and depth == 0:
                items.append(item)
                item = ""
            else:
                item += sign
        for item in items:
            if item.strip():
                yield from leaves(item, prefix + head)
        return
    path, _, alias = tree.partition(" as ")
    path = tuple(part for part in path.replace("\n", "").replace(" ", "").split("::") if part)
    path = prefix + path
    if path and path[-1] == "self":
        path = path[:-1]
    yield path, alias.strip() or (path[-1] if path else "")


class Crate:
    def __init__(self, root, folder):
        self.folder = folder
        self.src = root / folder / "src"
        self.files = {}  # module path -> file
        self.uses = {}  # module path -> [(path, name, public)]
        self.bodies = {}  # module path -> what is left of the source without its use lines
        for top in ("lib.rs", "main.rs"):
            if (self.src / top).exists() and () not in self.files:
                self.read((), self.src / top, self.src)

    def read(self, module, file, folder):
        source = without_tests(without_text(file.read_text()))
        self.files[module] = file
        uses = []
        pattern = r"(?m)^\s*((?:pub(?:\([^)]*\))?\s+)?)use\s+([^;]*);"
        for public, tree in re.findall(pattern, source):
            uses += [(path, name, bool(public)) for path, name in leaves(tree)]
        body = re.sub(pattern, "", source)
        for path in re.findall(r"(?<![\w:])((?:crate|super)(?:::\w+)+)", body):
            uses.append((tuple(path.split("::")), "", False))
        self.uses[module], self.bodies[module] = uses, body
        for name in re.findall(r"(?m)^\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+)\s*;", source):
            for child, inner in ((folder / f"{name}.rs", folder / name), (folder / name / "mod.rs", folder / name)):
                if child.exists():
                    self.read(module + (name,), child, inner)

    def resolve(self, module, path, seen=()):
        """The module whose file holds what `path` names, seen from `module`; None for another crate's."""
        at = module
        path = list(path)
        if not path or (module, tuple(path)) in seen:
            return None
        seen = seen + ((module, tuple(path)),)
        if path[0] == "crate":
            at, path = (), path[1:]
        elif path[0] in ("self", "super"):
            while path and path[0] in ("self", "super"):
                at = at[:-1] if path[0] == "super" else at
                path = path[1:]
        elif at + (path[0],) not in self.files:
            # A name that this file itself brought in, or another crate.
            for used, name, _ in self.uses[module]:
                if name == path[0] and used[:1] != (path[0],):
                    return self.resolve(module, used + tuple(path[1:]), seen)
            return None
        while path:
            if at + (path[0],) in self.files:
                at, path = at + (path[0],), path[1:]
                continue
            for used, name, public in self.uses[at]:
                if public and name == path[0]:
                    return self.resolve(at, used + tuple(path[1:]), seen) or at
            for used, name, public in self.uses[at]:
                if public and name == "*":
                    found = self.resolve(at, used[:-1] + tuple(path), seen)
                    if found is not None and found != at:
                        return found
            break
        return at

    def needs(self):
        """file -> file -> the names that the first takes from the second."""
        graph = {module: {} for module in self.files}
        for module, uses in self.uses.items():
            for path, name, public in uses:
                if path[-1:] == ("*",):
                    path = path[:-1]
                target = self.resolve(module, path)
                if target is None or target == module:
                    continue
                is_face = public and target[:len(module)] == module
                if is_face and not re.search(rf"\b{re.escape(name)}\b", self.bodies[module]):
                    continue
                # A private `use child::Name` counts; so does a path in the code.
                graph[module].setdefault(target, set()).add(name or "::".join(path))
            # Paths that begin with a module of this file's own: `child::function()`.
            for child in self.files:
                if child[:-1] == module and child:
                    for tail in re.findall(rf"(?<![\w:.]){child[-1]}((?:::\w+)+)", self.bodies[module]):
                        path = ("self", child[-1], *tail.split("::")[1:])
                        target = self.resolve(module, path)
                        if target is not None and target != module:
                            graph[module].setdefault(target, set()).add("::".join(path[1:]))
        return graph


def circles(graph):
    """Strongly connected components of more than one file (Tarjan)."""
    index, low, stack, on, found = {}, {}, [], set(), []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        on.add(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in on:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = []
            while True:
                part.append(stack.pop())
                on.discard(part[-1])
                if part[-1] == node:
                    break
            if len(part) > 1:
                found.append(sorted(part))

    sys.setrecursionlimit(10_000)
    for node in graph:
        if node not in index:
            visit(node)
    return found


def check(root):
    """What is wrong, and how much there is."""
    wrong, counts = [], []
    for folder in crates(root):
        crate = Crate(root, folder)
        graph = crate.needs()
        name = lambda module: str(crate.files[module].relative_to(root))
        of_crate = circles(graph)
        for circle in of_crate:
            wrong.append(f"circle of {len(circle)} files:")
            for module in circle:
                for other, names in graph[module].items():
                    if other in circle:
                        wrong.append(f"    {name(module)} needs {name(other)}: {', '.join(sorted(names))}")
        if folder == ".":
            floor = {module: number for number, layer in enumerate(LAYERS) for module in layer}
            for module in crate.files:
                if module and module[0] not in floor:
                    wrong.append(f"{name(module)}: its layer is not in LAYERS of scripts/structure.py")
            for module, others in graph.items():
                for other, names in others.items():
                    low, high = (floor.get(part[0]) if part else None for part in (module, other))
                    root_name = other == () and module != ()
                    if root_name or (low is not None and high is not None and high > low):
                        wrong.append(
                            f"a way up: {name(module)} names {name(other)}: {', '.join(sorted(names))}"
                        )
        counts.append((folder, len(crate.files), len(of_crate)))
    return wrong, counts


def self_test(root):
    """Each kind of wrong `use`, planted in a copy, must be found there and nowhere else."""
    plants = [
        ("src/protocol/key.rs", "use crate::store::Put;", "a way up: src/protocol/key.rs"),
        ("src/store/error.rs", "use crate::engine::Deduplicator;", "a way up: src/store/error.rs"),
        ("src/protocol/ids.rs", "use super::entry::Entry;", "src/protocol/ids.rs needs src/protocol/entry.rs"),
        ("http/src/key.rs", "use crate::layer::IdempotencyLayer;", "http/src/key.rs needs"),
        # A circle that is closed by a path in the code, `cases::registry()`.
        ("conformance/src/cases/mod.rs", "use super::Passed;", "conformance/src/lib.rs needs conformance/src/cases/mod.rs"),
        # What an engine's parts share must not know them.
        ("src/engine/inner.rs", "use super::request::Request;", "src/engine/inner.rs needs src/engine/request.rs"),
    ]
    clean, _ = check(root)
    for file, line, expected in plants:
        with tempfile.TemporaryDirectory() as copy:
            copy = pathlib.Path(copy)
            for folder in crates(root):
                shutil.copytree(root / folder / "src", copy / folder / "src", dirs_exist_ok=True)
                shutil.copy(root / folder / "Cargo.toml", copy / folder / "Cargo.toml")
            place = copy / file
            place.write_text(line + "\n" + place.read_text())
            found, _ = check(copy)
        new = [text for text in found if text not in clean]
        if not any(expected in text for text in new):
            print(f"planted in {file}: `{line}` is not found: {new}", file=sys.stderr)
            return 1
        print(f"found: `{line}` in {file}")
    return 0


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    if sys.argv[1:] == ["--self-test"]:
        return self_test(root)
    wrong, counts = check(root)
    for folder, files, of_crate in counts:
        print(f"{folder}: {files} files, {of_crate} circles")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
