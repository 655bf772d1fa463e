#!/usr/bin/env python3
"""What the programs are made of, as CycloneDX 1.5: sbom.py FILE

From `cargo metadata` and Cargo.lock, without network: every crate that is linked in, or that runs
while building, on this machine's target; dev-dependencies are left out. Each has version, source,
licence, the SHA-256 of its package, and what it depends on. The same sources give the same file:
its serial number comes from their hash, and its time is SOURCE_DATE_EPOCH or the last commit's.
"""

import datetime
import hashlib
import json
import os
import subprocess
import sys
import tomllib
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def run(*argv):
    return subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def timestamp():
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        try:
            epoch = run("git", "log", "-1", "--format=%ct").strip()
        except (OSError, subprocess.CalledProcessError):
            epoch = "0"
    when = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def checksums():
    with open(os.path.join(ROOT, "Cargo.lock"), "rb") as f:
        locked = tomllib.load(f)["package"]
    return {(p["name"], p["version"]): p.get("checksum") for p in locked}


def shipped(resolved, root):
    """Packages that `root` reaches by normal and build dependencies, and the edges between them."""
    nodes = {node["id"]: node for node in resolved["nodes"]}
    edges, todo = {}, [root]
    while todo:
        at = todo.pop()
        if at in edges:
            continue
        edges[at] = sorted(
            dep["pkg"]
            for dep in nodes[at]["deps"]
            if any(kind["kind"] in (None, "build") for kind in dep["dep_kinds"])
        )
        todo += edges[at]
    return edges


def purl(package):
    name = f"pkg:cargo/{package['name']}@{package['version']}"
    # A crate from elsewhere is not the one of that name on crates.io.
    other = package["source"] not in (None, CRATES_IO)
    return name + (f"?vcs_url={package['source']}" if other else "")


def component(package, kind, checksum):
    out = {
        "type": kind,
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "purl": purl(package),
    }
    if package["description"]:
        out["description"] = " ".join(package["description"].split())
    if package["license"]:
        # Older manifests separate alternatives by a slash.
        out["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if checksum:
        out["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        out["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return out


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: sbom.py FILE")
    version = run("rustc", "-vV")
    target = next(line[6:] for line in version.splitlines() if line.startswith("host: "))
    metadata = json.loads(
        run("cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target)
    )
    packages = {p["id"]: p for p in metadata["packages"]}
    root = metadata["resolve"]["root"]
    edges, sums = shipped(metadata["resolve"], root), checksums()

    def of(identifier, kind="library"):
        package = packages[identifier]
        return component(package, kind, sums.get((package["name"], package["version"])))

    others = sorted((i for i in edges if i != root), key=lambda i: purl(packages[i]))
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": timestamp(),
            "component": of(root, "application"),
            "properties": [
                {"name": "cargo:target", "value": target},
                {"name": "rustc", "value": version.splitlines()[0]},
            ],
        },
        "components": [of(i) for i in others],
        "dependencies": [
            {"ref": purl(packages[i]), "dependsOn": sorted({purl(packages[d]) for d in edges[i]})}
            for i in sorted(edges, key=lambda i: purl(packages[i]))
        ],
    }
    content = hashlib.sha256(json.dumps(bom, sort_keys=True).encode()).digest()
    bom["serialNumber"] = f"urn:uuid:{uuid.UUID(bytes=content[:16], version=4)}"
    os.makedirs(os.path.dirname(os.path.abspath(sys.argv[1])), exist_ok=True)
    with open(sys.argv[1], "w") as f:
        json.dump(bom, f, indent=1)
        f.write("\n")
    print(f"{sys.argv[1]}: {len(others)} components")


if __name__ == "__main__":
    main()
