"""The library: a radiograph becomes a report. No HTTP here, no TorchServe, no downloads."""
