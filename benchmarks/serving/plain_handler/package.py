"""The plain handler's archive, made with TorchServe's archiver."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file

from benchmarks.decode.peers.generate import marian
from benchmarks.machine import ROOT
from prelim.archive.archive import CONNECTOR, TOKENIZER, VISION, WEIGHTS
from prelim.archive.model_config import ModelConfig
from prelim.decoders.cross_attention import CrossAttentionConfig
from prelim.networks.model_folder import read_network

HANDLER = Path(__file__).with_name("plain_handler.py")


def write_plain_archive(
    model: Path, networks: Path, store: Path, name: str, *, dtype: str, batch_size: int, checkpoint: Path | None
) -> Path:
    """Package a model for the plain handler.

    model      : its model folder
    networks   : folder with its exported networks, the same that Prelim serves
    dtype      : of the decoder, a name of PyTorch
    batch_size : TorchServe's batchSize; other settings keep their defaults
    checkpoint : of `transformers`, with the decoder's weights; None: convert a cross-attention decoder to Marian's
    """
    config = ModelConfig.read(model / "model.yaml")
    p, tokens = config.preprocess, config.tokenizer
    settings = {
        "size": p.size,
        "interpolation": p.interpolation,
        "mean": list(p.mean),
        "std": list(p.std),
        "dtype": dtype,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": list(tokens.eos_token_ids),
        "pad_token_id": tokens.pad_token_id,
    }
    serving = {"minWorkers": 1, "maxWorkers": 1, "batchSize": batch_size, "responseTimeout": 300}
    with tempfile.TemporaryDirectory() as temporary:
        extra, scratch = Path(temporary, "extra"), Path(temporary, "scratch")
        scratch.mkdir()
        decoder = extra / "decoder"
        decoder.mkdir(parents=True)
        for network in (VISION, CONNECTOR):
            for file in (network, f"{network}.data"):
                shutil.copyfile(networks / file, extra / file)
        shutil.copyfile(model / TOKENIZER, extra / TOKENIZER)
        (extra / "plain.json").write_text(json.dumps(settings), encoding="utf-8")
        if checkpoint is None:
            _write_marian(model, decoder)
        else:
            for file in ("config.json", WEIGHTS):
                shutil.copyfile(checkpoint / file, decoder / file)
        of_server = Path(temporary, "model-config.yaml")
        of_server.write_text(yaml.safe_dump(serving), encoding="utf-8")
        command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", name, "--version", "1.0"]
        command += ["--handler", str(HANDLER), "--extra-files", str(extra), "--config-file", str(of_server)]
        command += ["--archive-format", "zip-store", "--export-path", str(store), "--force"]
        # The archiver stages under <temporary folder>/<name> and deletes its content, so it gets a separate folder.
        subprocess.run(command, cwd=ROOT, env={"TMPDIR": str(scratch)}, stdout=subprocess.DEVNULL, check=True)
    return store / f"{name}.mar"


def _write_marian(model: Path, folder: Path) -> None:
    """Write a cross-attention decoder in the format of `transformers`."""
    config, network = read_network(model)
    dimensions: dict[str, Any] = {name: value for name, value in config.decoder.items() if name != "kind"}
    same = marian(CrossAttentionConfig(**dimensions), network.decoder.state_dict())
    same.config.save_pretrained(folder)
    # Saved separately: save_pretrained omits positions that differ from Marian's.
    save_file({name: tensor.contiguous() for name, tensor in same.state_dict().items()}, folder / WEIGHTS)
