from itertools import islice

import numpy as np

from benchmarks.demo_clip import render
from fartrack.demo import CLIP_FPS, CLIP_LENGTH, demo_frames


def test_it_is_the_rendered_clip_with_its_boxes():
    assert (CLIP_FPS, CLIP_LENGTH) == (render.CLIP_FPS, render.CLIP_LENGTH)
    pairs = list(demo_frames())
    assert len(pairs) == CLIP_LENGTH
    for (image, box), (rendered, truth) in islice(zip(pairs, render.render_clip(), strict=True), 0, None, 12):
        assert image.shape == rendered.shape and image.dtype == np.uint8
        np.testing.assert_allclose(box, truth, atol=5e-4)
        error = image.astype(float) - rendered  # of the encoding
        assert 10 * np.log10(255**2 / np.square(error).mean()) > 25
