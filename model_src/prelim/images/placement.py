"""Where the picture that a network reads is in the image that was stored."""

from dataclasses import dataclass

from prelim.images.deep_raster import ORIENTATIONS
from prelim.images.preprocess import PreprocessConfig, in_image

Sides = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Placement:
    """The image of a picture.

    rows, columns : of the rendered image, which is upright
    orientation   : by which it was turned (Exif 2.32 4.6.4); 1: it is as it was stored, which every DICOM image is
    """

    rows: int
    columns: int
    orientation: int = 1

    def locate(self, sides: Sides, config: PreprocessConfig) -> Sides:
        """Pixels of the stored image, from its first column and row, of a box in the picture.

        sides  : of the box, in parts of the picture's side
        config : how the picture was made

        What is outside of the image, in black around it, is moved to its edge.
        """
        corners = [in_image(x, y, self.rows, self.columns, config) for x, y in (sides[:2], sides[2:])]
        (left, top), (right, bottom) = (self._as_stored(x, y) for x, y in corners)
        return min(left, right), min(top, bottom), max(left, right), max(top, bottom)

    def _as_stored(self, x: float, y: float) -> tuple[float, float]:
        turns, mirrored = ORIENTATIONS.get(self.orientation, (0, False))
        rows, columns = self.rows, self.columns
        if mirrored:
            x = columns - x
        for _ in range(turns):
            # Back from a quarter turn counterclockwise, after which the first row was the last column.
            x, y = rows - y, x
            rows, columns = columns, rows
        return x, y
