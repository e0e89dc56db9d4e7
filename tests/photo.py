"""A picture file of noise, of any mode."""

import numpy as np
from PIL import Image


def photo(path, size=(20, 12), mode="RGB"):
    """``path``, written; ``size`` is width and height in pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path
