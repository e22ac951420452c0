#!/bin/sh
# Checks decoding on a GPU. Needs Python 3.11 or later with PyTorch and transformers, nothing else of this project's
# dependencies and no network; takes less than 8 minutes. Options are those of `python -m benchmarks.gpu`.
#
#     benchmarks/gpu_check.sh                      # PYTHON=python3 DEVICE=cuda
#     DEVICE=cpu benchmarks/gpu_check.sh --shapes tiny-biogpt tiny-llama
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/model_src:$PWD"
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
exec "${PYTHON:-python3}" -W ignore -m benchmarks.gpu --device "${DEVICE:-cuda}" "$@"
