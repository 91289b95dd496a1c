"""Prepared data made of what is known exactly: red rectangles that stand still or move on blue ground; tiny recipes."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

TARGET_BGR, GROUND_BGR = (10, 60, 240), (120, 90, 60)


def _scene(rng, box, textured):
    image = np.full((120, 160, 3), GROUND_BGR, np.uint8)
    if textured:
        coarse = rng.integers(-40, 41, (6, 8, 3)).astype(np.float32)
        image = np.clip(image + cv2.resize(coarse, (160, 120)), 0, 255).astype(np.uint8)
    mask = np.zeros((120, 160), bool)
    if box is not None:
        x, y, w, h = box
        image[y : y + h, x : x + w] = TARGET_BGR
        mask[y : y + h, x : x + w] = True
    return image, mask


def _pictures(seed, textured, stills, clips, masks):
    from fartrack.datasets.pictures import Picture, Target

    rng = np.random.default_rng(seed)

    def picture(box, sequence=None):
        image, mask = _scene(rng, box, textured)
        target = Target(tuple(map(float, box)), mask if masks else None)
        return Picture(image, (target,), sequence=sequence)

    for _ in range(stills):
        w, h = rng.integers(18, 36, 2)
        yield picture((rng.integers(0, 160 - w), rng.integers(0, 120 - h), w, h))
    for clip in range(clips):
        w, h = rng.integers(18, 36, 2)
        place = np.array([rng.integers(0, 160 - w), rng.integers(0, 120 - h)])
        speed = rng.integers(-5, 6, 2)
        for _ in range(12):
            place = np.clip(place + speed, 0, [160 - w, 120 - h])
            yield picture((*place, w, h), sequence=f"clip{clip}")


@pytest.fixture
def synthetic_store(tmp_path):
    """A function that writes a store of such pictures and returns its folder; every picture has one target."""

    def make(seed=0, textured=False, stills=6, clips=3, masks=True):
        from fartrack.train.data.store import write_store

        folder = tmp_path / "store"
        write_store(folder, _pictures(seed, textured, stills, clips, masks))
        return folder

    return make


@pytest.fixture
def recipe(tiny):
    """Six steps of a tiny network, with everything random in it that a run knows."""
    from fartrack.train.data.sampling import SamplingConfig
    from fartrack.train.recipe import Recipe

    return Recipe(
        steps=6,
        sets=2,
        templates=(1, 2),
        learning_rate=3e-3,
        head_learning_rate=3e-3,
        warmup=2,
        decay=2,
        precision="fp32",
        model=tiny(drop_path=0.5),
        sampling=SamplingConfig(searches=2),
    )


@pytest.fixture
def recipe_of(recipe):
    """A function that makes a recipe of a kind: of a phase, or with patch dropout on the first half of the steps."""
    from fartrack.tracking.settings import TrackerSettings
    from fartrack.train.recipe import RolloutConfig

    tracker = TrackerSettings(templates=3, interval=2, retention=0.5, template_score=0)

    def make(kind, **changes):
        kinds = {
            "pretrain": {},
            "distill": {"first_exit": 1},
            "sparsify": {"rollout": RolloutConfig(share=0.5, frames=6, clips=2, synthetic=0.5, tracker=tracker)},
            "dropout": {"patch_dropout_steps": 3},
        }
        return replace(recipe, **(kinds[kind] | changes))

    return make
