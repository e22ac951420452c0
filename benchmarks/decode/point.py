"""A point at which decoding is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """Number of images decoded together, and number of beams of each."""

    images: int
    beams: int

    @classmethod
    def parse(cls, text: str) -> "Point":
        """Parse text such as "4x3". Raises ValueError."""
        images, _, beams = text.partition("x")
        if not (images.isdecimal() and beams.isdecimal() and int(images) and int(beams)):
            raise ValueError(f"point is {text!r}; it must be images x beams, such as 4x3")
        return cls(int(images), int(beams))

    def __str__(self) -> str:
        return f"{self.images}x{self.beams}"
