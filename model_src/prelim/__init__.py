"""The library: a radiograph becomes a report. No HTTP here, no TorchServe, no downloads."""

__version__ = "0.2.0"
