"""The configuration file: its sections with all keys and defaults, and how a section is read and checked."""
