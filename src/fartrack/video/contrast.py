"""From pictures of more than 8 bits, such as those of thermal cameras and microscopes, to the 8 that are tracked."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fartrack.geometry import Image

TAILS = (1, 99)
"""Percentiles of the values that become black and white."""

FULL = 2**15
"""Of 16-bit pictures whose values span more than this, the upper 8 bits are taken, as viewers do."""

log = logging.getLogger("fartrack")


class Contrast:
    """One linear rule from values to 0…255, the same for all pictures of a source; what lies beyond is clipped."""

    def __init__(self, name: str, samples: Sequence[NDArray[Any]]) -> None:
        """Take the band from `samples` of any number type, 8-bit ones left out; what is done is logged."""
        deep = [image for image in samples if image.dtype != np.uint8]
        values = np.concatenate(
            [image[:: 1 + image.shape[0] // 512, :: 1 + image.shape[1] // 512].ravel() for image in deep]
        )
        values = values[np.isfinite(values)]
        self.low, self.high = map(float, np.percentile(values, TAILS)) if values.size else (0.0, 0.0)
        if deep[0].dtype == np.uint16 and self.high - self.low > FULL:
            self.low, self.high = 0.0, 255 * 256.0
        else:
            band = f"values from {self.low:g} to {self.high:g} become black to white"
            log.warning("%s has more than 8 bits: %s.", name, band)

    def __call__(self, image: NDArray[Any]) -> Image:
        """The picture as uint8."""
        scale = 255 / max(self.high - self.low, 1e-12)
        values = (image.astype(np.result_type(image.dtype, np.float32)) - self.low) * scale
        return np.clip(np.nan_to_num(values), 0, 255).astype(np.uint8)
