"""Bills of materials in CycloneDX 1.7, validated by the library's schema before they are written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.fill_environment import InstallError

VERSION = "1.7"

SPDX = {
    "Apache 2.0": "Apache-2.0",
    "Apache License Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "CC BY 3.0": "CC-BY-3.0",
    "CC BY 4.0": "CC-BY-4.0",
    "CC0 1.0": "CC0-1.0",
    "MIT License": "MIT",
}
"""License as people write it -> its SPDX id."""


def license_of(text: str) -> dict[str, Any]:
    """An entry of `licenses`: an SPDX id where the text is one that is known, otherwise the text as it is."""
    known = SPDX.get(text, text if text in SPDX.values() else None)
    return {"license": {"id": known} if known else {"name": text}}


def write_bom(path: Path, fields: Mapping[str, Any]) -> Path:
    """Write a bill of materials, and return its path. Raises InstallError if it is not valid."""
    bom: dict[str, Any] = {
        "$schema": f"http://cyclonedx.org/schema/bom-{VERSION}.schema.json",
        "bomFormat": "CycloneDX",
    }
    bom |= {"specVersion": VERSION, "version": 1, **fields}
    text = json.dumps(bom, indent=1) + "\n"
    fault = JsonStrictValidator(SchemaVersion.V1_7).validate_str(text)
    if fault is not None:
        raise InstallError(f"{path} would not be valid CycloneDX {VERSION}: {str(fault)[:500]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
