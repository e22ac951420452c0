"""Print the size of each layer of an image in buildah's storage.

python3 -m deploy.layers prelim:VERSION-cpu
"""

import json
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Command line."""
    image = sys.argv[1]
    sizes = read_sizes(storage_folder())
    described = json.loads(_buildah("inspect", "--type", "image", image))["OCIv1"]
    layers = iter(described["rootfs"]["diff_ids"])
    total = 0
    for step in described["history"]:
        if not step.get("empty_layer"):
            size = sizes[next(layers)]
            total += size
            print(f"{size / 1e6:8.1f} MB  {step.get('created_by', '')[:90]}")
    print(f"{total / 1e6:8.1f} MB  {image}")


def storage_folder() -> Path:
    """Where buildah keeps images."""
    return Path(json.loads(_buildah("info"))["store"]["GraphRoot"])


def read_sizes(storage: Path) -> dict[str, int]:
    """Digest of a layer's files -> bytes of its tar archive, uncompressed."""
    sizes = {}
    for file in storage.glob("*-layers/layers.json"):
        for layer in json.loads(file.read_text(encoding="utf-8")):
            if "diff-digest" in layer:
                sizes[layer["diff-digest"]] = int(layer["diff-size"])
    return sizes


def _buildah(*arguments: str) -> str:
    return subprocess.run(["buildah", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
