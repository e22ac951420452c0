"""The library: a radiograph becomes a report. No HTTP here, no TorchServe, no downloads."""

import os

__version__ = "0.3.0.dev0"

# Before anything imports ONNX Runtime, whose telemetry would keep an identifier in the temporary folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
