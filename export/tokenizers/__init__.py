"""Published tokenizers as files of the `tokenizers` library."""
