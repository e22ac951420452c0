"""Write the bill of materials of what serves: every package of the lock, and the frozen libraries in TorchServe's jar.

python -m deploy.sbom --target cpu           # out/prelim-VERSION-cpu.cdx.json, CycloneDX 1.7

Versions and hashes are those of deploy/image's locks; the licenses are those that the installed packages declare. nginx
and Python come from Debian and are not listed: the image's own package manager lists them.
"""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import prelim
from deploy.bom import VERSION, license_of, write_bom
from deploy.fill_environment import LOCKS, TARGETS, InstallError
from terminal.arguments import CommandLine

OUT = Path("out")

FROZEN = {
    "pkg:maven/io.netty/netty-codec-http@4.1.53.Final": "Apache-2.0",
    "pkg:maven/io.grpc/grpc-netty-shaded@1.50.0": "Apache-2.0",
    "pkg:maven/org.apache.logging.log4j/log4j-core@2.17.1": "Apache-2.0",
}
"""What scanners must know of model-server.jar (docs/threat-model.md): package URL -> license."""


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--target", choices=TARGETS, default="cpu")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    path = arguments.out / f"prelim-{prelim.__version__}-{arguments.target}.cdx.json"
    print(write_bom(path, describe(arguments.target)))


def describe(target: str) -> dict[str, Any]:
    """Fields of the bill of materials of a target. Raises InstallError if cyclonedx-py cannot read the lock."""
    names = ["gpu.lock"] if target == "gpu" else ["cpu.lock", "cpu-torch.lock"]
    lock = "".join((LOCKS / name).read_text(encoding="utf-8") for name in names)
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "-", "--sv", VERSION, "--output-reproducible"]
    done = subprocess.run(command, input=lock, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InstallError(f"cyclonedx-py cannot read the locks:\n{done.stderr[-2000:]}")
    fields: dict[str, Any] = json.loads(done.stdout)
    for component in fields["components"]:
        # Instead of the number and the text of a line of the lock.
        component["bom-ref"] = component["purl"]
        del component["description"]
        licenses = installed_licenses(component["name"])
        if licenses:
            component["licenses"] = licenses
        if component["name"] == "torchserve":
            component["components"] = [frozen(purl, name) for purl, name in FROZEN.items()]
    own = {"type": "application", "name": "prelim", "version": prelim.__version__, "bom-ref": "prelim"}
    fields["metadata"]["component"] = own | {"licenses": [license_of("Apache-2.0")]}
    packages = [component["bom-ref"] for component in fields["components"]]
    fields["dependencies"] = [{"ref": "prelim", "dependsOn": packages}, *({"ref": ref} for ref in packages)]
    return {name: fields[name] for name in ("metadata", "components", "dependencies")}


def installed_licenses(package: str) -> list[dict[str, Any]]:
    """What an installed package says of its license: an expression (PEP 639), or else its field or classifiers."""
    try:
        said = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
        return []
    if said["License-Expression"]:
        return [{"expression": said["License-Expression"]}]
    classifiers = [line.rpartition(" :: ")[2] for line in said.get_all("Classifier", []) if line.startswith("License")]
    field = said["License"] or ""
    # Some packages have the whole text in the field.
    return [license_of(name) for name in ([field] if field and "\n" not in field else classifiers)]


def frozen(purl: str, spdx: str) -> dict[str, Any]:
    """A library of the jar as a component."""
    group, name = purl.removeprefix("pkg:maven/").partition("@")[0].split("/")
    version = purl.rpartition("@")[2]
    component = {"type": "library", "bom-ref": purl, "group": group, "name": name, "version": version, "purl": purl}
    return component | {"licenses": [license_of(spdx)]}


if __name__ == "__main__":
    main()
