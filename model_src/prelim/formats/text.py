"""Text as files and requests have it."""


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can write a text: not half of a surrogate pair, which JSON and Python's texts may have."""
    return text.isascii() or text == text.encode(errors="replace").decode()
