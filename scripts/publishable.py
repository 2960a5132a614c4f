#!/usr/bin/env python3
"""Checks the manifests and the archives of the published crates. scripts/publishable.sh runs it.

    scripts/publishable.py names             the published crates: all members without `publish = false`
    scripts/publishable.py manifests         what a registry's page needs is in every manifest
    scripts/publishable.py unpack FROM TO    looks at the archives in FROM, and unpacks them as a workspace in TO
    scripts/publishable.py labels DOCS       looks for the features' labels in the pages in DOCS
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib

# The registry refuses a category that it does not have. Look a new one up there before you add it.
CATEGORIES = {
    "asynchronous", "caching", "concurrency", "data-structures", "database", "database-implementations",
    "development-tools", "development-tools::debugging", "development-tools::testing", "network-programming",
    "web-programming", "web-programming::http-server",
}

# These features add no public item: a default, an address scheme, a library compiled in.
UNLABELLED = {"oncekey-http": {"tokio", "tracing"}, "oncekey-redis": {"tls"}, "oncekey-sqlite": {"bundled"}}

# Files of these kinds may be in an archive, if the manifest's `include` names them.
KINDS = [
    r"src/.+\.(rs|txt|md|lua)", r"examples/[^/]+\.rs", r"sql/[^/]+\.sql", r"ops/[^/]+\.(sql|lua)",
    r"docs/(guide/)?[^/]+\.md", r"docs/img/[^/]+\.png",
]
# These must be in every archive, and LICENSES with the text of the files at the root of the repository.
LICENSES = {"LICENSE-MIT", "LICENSE-APACHE"}
NEEDED = {"Cargo.toml", "Cargo.toml.orig", "Cargo.lock", "README.md", "CHANGELOG.md"} | LICENSES
# Cargo adds this one in a clone of a git repository.
ADDED = {".cargo_vcs_info.json"}
BYTES_MAX = 400_000

wrong = []


def fault(name, text):
    wrong.append(f"{name}: {text}")


def published():
    command = ["cargo", "metadata", "--no-deps", "--format-version", "1"]
    packages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packages"]
    # `publish` is null for any registry, and an empty list for none.
    return sorted((p for p in packages if p["publish"] != []), key=lambda p: p["name"])


def check_manifests():
    for package in published():
        name = package["name"]
        for key in ("description", "readme", "license", "rust_version", "documentation", "keywords", "categories"):
            if not package[key]:
                fault(name, f"the manifest has no `{key.replace('_', '-')}`")
        if len(package["keywords"]) > 5:
            fault(name, f"{len(package['keywords'])} keywords; the registry takes 5")
        for keyword in package["keywords"]:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,19}", keyword):
                fault(name, f"the registry refuses the keyword '{keyword}'")
        if len(package["categories"]) > 5:
            fault(name, f"{len(package['categories'])} categories; the registry takes 5")
        for category in package["categories"]:
            if category not in CATEGORIES:
                fault(name, f"'{category}' is not in the list of the registry's categories in this script")
        docs = ((package["metadata"] or {}).get("docs") or {}).get("rs") or {}
        if docs.get("all-features") is not True:
            fault(name, "`[package.metadata.docs.rs]` has no `all-features = true`")
        if docs.get("rustdoc-args") != ["--cfg", "docsrs"]:
            fault(name, "`[package.metadata.docs.rs]` has no `rustdoc-args = [\"--cfg\", \"docsrs\"]`: no feature labels")
        manifest = tomllib.loads(pathlib.Path(package["manifest_path"]).read_text())
        if "include" not in manifest["package"]:
            fault(name, "the manifest has no `include`: the archive would hold whatever lies in the folder")


def links(readme):
    """The targets of a page's links and images: inline, by reference, and in HTML."""
    # No links in code.
    readme = re.sub(r"^(```|~~~).*?^\1", "", readme, flags=re.S | re.M)
    readme = re.sub(r"(?<!\\)(`+)(?!`).*?(?<!`)\1(?!`)", "code", readme, flags=re.S)
    yield from re.findall(r"\]\(\s*<?([^)>\s]+)", readme)
    yield from re.findall(r"^\[[^\]]+\]:\s*<?([^>\s]+)", readme, flags=re.M)
    yield from re.findall(r"(?:href|src)\s*=\s*[\"']([^\"']+)", readme)


def check_archive(package, archive, to):
    name, folder = package["name"], f"{package['name']}-{package['version']}"
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        for member in members:
            # In an archive every file is of the same day in 2006, and cargo would take the build of an earlier run for good.
            member.mtime = time.time()
        tar.extractall(to, members, filter="data")
    held = {m.name.removeprefix(folder + "/"): m.size for m in members if m.isfile()}
    root = to / folder
    print(f"{archive.name}: {len(held)} files, {sum(held.values())} bytes, {archive.stat().st_size} packed")
    for file in sorted(NEEDED - held.keys()):
        fault(name, f"the archive has no {file}")
    for file in sorted(held.keys() - NEEDED - ADDED):
        if not any(re.fullmatch(kind, file) for kind in KINDS):
            fault(name, f"the archive holds {file}, which is of no kind that belongs there")
    if sum(held.values()) - held.get("Cargo.lock", 0) > BYTES_MAX * 3 or archive.stat().st_size > BYTES_MAX:
        fault(name, f"the archive is larger than {BYTES_MAX} bytes, or three times as much unpacked")
    for file in sorted(LICENSES & held.keys()):
        if (root / file).read_bytes() != pathlib.Path(file).read_bytes():
            fault(name, f"{file} is not the text of the {file} at the root of the repository")
    for link in links((root / "README.md").read_text()) if "README.md" in held else ():
        if re.match(r"(https?:|mailto:|#)", link):
            continue
        target = (root / link.split("#")[0]).resolve()
        if not target.is_relative_to(root.resolve()) or not target.exists():
            fault(name, f"README.md links to {link}, which is not in the archive")


def unpack(source, to):
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    packages = published()
    for package in packages:
        check_archive(package, source / f"{package['name']}-{package['version']}.crate", to)
    folders = {p["name"]: f"{p['name']}-{p['version']}" for p in packages}
    lines = ["[workspace]", 'resolver = "3"', f"members = {json.dumps(list(folders.values()))}", "", "[patch.crates-io]"]
    lines += [f'{name} = {{ path = "{folder}" }}' for name, folder in folders.items()]
    lines += ["", "[profile.dev]", "debug = false", ""]
    (to / "Cargo.toml").write_text("\n".join(lines))
    for folder in folders.values():
        # An archive's lock file says nothing of what its users get.
        (to / folder / "Cargo.lock").unlink(missing_ok=True)
        manifest = to / folder / "Cargo.toml"
        # Without it, cargo takes the newest versions that the compiler of this machine can build, as a user's crate would have it.
        text = re.sub(r"^rust-version = .*\n", "", manifest.read_text(), flags=re.M)
        # No user builds the dependencies of tests. Where the archive has no examples, they need not be as old as they may be.
        if not (to / folder / "examples").exists():
            text = re.sub(r"^\[dev-dependencies\..*?(?=^\[(?!dev-)|\Z)", "", text, flags=re.S | re.M)
        manifest.write_text(text)


def check_labels(docs):
    for package in published():
        name = package["name"]
        pages = [page.read_text() for page in (docs / name.replace("-", "_")).rglob("*.html")]
        if not pages:
            fault(name, "no documentation was built")
        labelled = set()
        for label in re.findall(r'class="stab portability"[^>]*>(.*?)</(?:span|div)>', "".join(pages)):
            labelled.update(re.findall(r"<code>([^<]+)</code>", label))
        print(f"{name}: {len(pages)} pages; labels of {' '.join(sorted(labelled)) or 'no feature'}")
        expected = set(package["features"]) - {"default"} - UNLABELLED.get(name, set())
        for feature in sorted(expected - labelled):
            fault(name, f"no item of the documentation is labelled with the feature `{feature}`")


def main():
    match sys.argv[1:]:
        case ["names"]:
            print("\n".join(p["name"] for p in published()))
        case ["manifests"]:
            check_manifests()
        case ["unpack", source, to]:
            unpack(pathlib.Path(source), pathlib.Path(to))
        case ["labels", docs]:
            check_labels(pathlib.Path(docs))
        case _:
            sys.exit(__doc__)
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong else 0)


main()
