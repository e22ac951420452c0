"""An index of shards names files of its own folder only."""

import json
from pathlib import Path

import pytest

from export.checkpoints.checkpoint import checkpoint_files
from prelim.errors import ArchiveError


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/secret.safetensors", "a/b/secret.safetensors"])
def test_shards_lie_beside_their_index(tmp_path: Path, shard: str) -> None:
    """A name that leads elsewhere is taken for the file of that name in the folder."""
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard, "b": "model-1-of-1.safetensors", "c": shard}}))

    shards = {tmp_path / "secret.safetensors", tmp_path / "model-1-of-1.safetensors"}
    with pytest.raises(ArchiveError, match="lists shards that are missing: secret"):
        checkpoint_files(tmp_path)
    for path in shards:
        path.touch()

    assert set(checkpoint_files(tmp_path)) == {index, *shards}
    assert len(checkpoint_files(tmp_path)) == 3


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}, "a"])
def test_index_without_names_is_refused(tmp_path: Path, weight_map: object) -> None:
    """A weight_map that does not map keys to names."""
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    with pytest.raises(ArchiveError, match="has no weight_map; expected key -> shard name"):
        checkpoint_files(tmp_path)
