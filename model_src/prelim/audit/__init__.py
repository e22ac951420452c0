"""The audit log: one line for each report, so that it can be shown later what was written, and from what."""
