"""Pictures that look like chests, each another."""

import io

import numpy as np
from PIL import Image


def chest(seed: int, side: int = 80) -> bytes:
    """A PNG with two dark lungs and a heart on a bright chest, no two of them alike."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]

    def ellipse(middle: float, height: float, width: float, length: float) -> np.ndarray:
        return 0.5 - 0.5 * np.tanh(6 * (((x - middle) / width) ** 2 + ((y - height) / length) ** 2 - 1))

    gray = 0.85 - 0.2 * y**2
    for middle in (-0.42, 0.42):
        width, length, height = random.uniform((0.2, 0.5, -0.1), (0.32, 0.75, 0.1))
        gray -= random.uniform(0.4, 0.7) * ellipse(middle, height, width, length)
    size = random.uniform(0.12, 0.3)
    gray += 0.4 * ellipse(0.12, 0.3, size, size)
    file = io.BytesIO()
    Image.fromarray((255 * np.clip(gray, 0, 1)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
