"""Values from Python that the page's TypeScript is held against: ``web/tests/parity.test.ts`` reads them."""

import base64
import itertools
import json
from dataclasses import asdict, astuple

import av
import cv2
import numpy as np

from fartrack.geometry import Crop, clip_box, iou
from fartrack.model.calibration import Calibration
from fartrack.model.config import ModelConfig
from fartrack.model.vocabulary import BIN_CENTERS, BINS, decode, encode
from fartrack.tracking.distractors import Scene
from fartrack.tracking.recovery import Recovery, cover, is_cut, is_plain, seek, thumbnail
from fartrack.tracking.settings import TrackerSettings
from fartrack.tracking.templates import Template, TemplateMemory
from fartrack.tracking.tracker import Tracker

COLORS = {"bt601": 5, "bt709": 1, "bt2020": 9}  # FFmpeg's numbers
SIZE = (120, 90)


def packed(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def picture(rng, width, height, scene=None):
    """Noise on top of a scene: a few large patches, which thumbnails show."""
    noise = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), np.uint8), (5, 5), 0)
    scene = rng.integers(0, 256, (3, 4, 3), np.uint8) if scene is None else scene
    large = cv2.resize(scene, (width, height), interpolation=cv2.INTER_NEAREST)
    return cv2.addWeighted(cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX), 0.6, large, 0.4, 0)


class Scripted:
    """An engine that answers from a list, whatever it is shown."""

    def __init__(self, rng, length):
        self.config = ModelConfig(depth=1, template_size=32, search_size=64, patch=8)
        goal = rng.uniform([0.3, 0.3, 0.55, 0.55], [0.45, 0.45, 0.7, 0.7], (length, 4))
        width = np.exp(rng.uniform(-5, -1.5, (length, 4, 1)))
        self.logits = (-(((BIN_CENTERS - goal[..., None]) / width) ** 2) / 2).clip(-12).astype(np.float32)
        self.logits += rng.normal(0, 0.1, self.logits.shape).astype(np.float32)
        self.calls = 0
        self.sizes = []  # width and height of what was shown

    def begin_templates(self, crops, identities, boxes):
        """Each token is one pixel of the crop; ``web/tests/parity.test.ts`` has the same."""
        assert boxes.shape == (len(crops), 4)
        tokens = crops[:, 3::8, 4::8].reshape(len(crops), 1, 1, 16, 3).astype(np.float32) / np.float32(128) - 1
        return tokens, tokens

    def finish_templates(self, tokens):
        return tokens

    def search(self, crops, trajectory, kv_cache):
        assert kv_cache.shape[1] == 2
        self.calls += len(crops)
        self.sizes += [crops.shape[2:0:-1]] * len(crops)
        return self.logits[self.calls - len(crops) : self.calls]

    def search_scored(self, crops, trajectory, kv_cache):
        scores = (np.arange(kv_cache.shape[-2]) * 37 % 11).astype(np.float32)
        return self.search(crops, trajectory, kv_cache), np.tile(scores, (len(crops), 1))


def crops(rng):
    image = picture(rng, *SIZE)
    cases = []
    for side, size in ((12, 32), (50, 64), (64, 32), (75, 32), (140, 64), (170, 32), (300, 32)):
        x, y = (rng.uniform(-0.6, 0.9, 2) * SIZE).tolist()
        window = Crop(x, y, side)
        cases.append(
            {"x": x, "y": y, "side": side, "size": size, "pixels": packed(window.extract(image, size, PADDING))}
        )
    return {"width": SIZE[0], "height": SIZE[1], "image": packed(image), "cases": cases}


PADDING = (124, 116, 104)  # RGB, as the page's frames are


def colors(rng):
    cases = []
    width, height = 66, 34
    shapes = ((height, width), (height // 2, width // 2), (height // 2, width // 2))
    planes = [rng.integers(0, 256, shape).astype(np.uint8) for shape in shapes]
    for matrix, number in COLORS.items():
        for full in (False, True):
            frame = av.VideoFrame(width, height, "yuv420p")
            for plane, values in zip(frame.planes, planes, strict=True):
                rows = np.asarray(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
                rows[:, : plane.width] = values
            frame.colorspace, frame.color_range = number, 2 if full else 1
            cases.append({"matrix": matrix, "fullRange": full, "pixels": packed(frame.to_ndarray(format="rgb24"))})
    return {"width": width, "height": height, "planes": [packed(plane) for plane in planes], "cases": cases}


def vocabulary(rng):
    logits = Scripted(rng, 6).logits
    coordinates = [-3.0, -0.5, -0.4999, 0.0, 1 / 3, 0.5, 1.4999, 1.5, 9.0]
    decoded = [decode(one) for one in logits]
    return {
        "coordinates": coordinates,
        "tokens": encode(coordinates).tolist(),
        "logits": packed(logits),
        "corners": [corners.tolist() for corners, _ in decoded],
        "scores": [float(mass.min()) for _, mass in decoded],
    }


def boxes(rng):
    pairs = rng.uniform([-60, -60, 0.2, 0.2], [160, 120, 90, 90], (12, 2, 4))
    return [
        {
            "first": first.tolist(),
            "second": second.tolist(),
            "iou": float(iou(first, second)),
            "clipped": clip_box(first, *SIZE),
            "corners": Crop.around(first, 4).to_crop(second).tolist(),
        }
        for first, second in pairs
    ]


def recovery(rng):
    sure = np.array([30.0, 20, 25, 16])
    sizes = [(640, 360), (200, 500), (90, 90)]
    windows = [asdict(window) for size in sizes for turn in range(14) for window in seek(sure, size, 4, turn)]
    tiles = [[asdict(window) for window in cover(size, 80.0)] for size in sizes]
    limits = []
    for sides, rate in (([26, 15], [0, 0]), ([80, 5], [0.1, 0.01])):
        bounded, after = Recovery(sure, rate=np.array(rate, float)).limited(sure, np.array(sides, float), 0.2)
        limits.append({"sides": sides, "rate": rate, "bounded": bounded.tolist(), "after": after.tolist()})
    noise = [np.clip(rng.normal(90, deviation, (32, 32, 3)), 0, 255).astype(np.uint8) for deviation in (1, 3, 6, 30)]
    # Noise in the middle of a crop, and another color around it, where some windows reach beyond the frame.
    framed = [cv2.copyMakeBorder(crop[6:-6, 9:-9], 6, 6, 9, 9, cv2.BORDER_CONSTANT, value=(9, 9, 9)) for crop in noise]
    window, sizes_of_frames = Crop(-18.0, -12.0, 64.0), [(28, 40), (28, 41), (40, 60), (3, 3)]
    plain = [
        {"crop": packed(crop), "window": [*astuple(window)], "size": size, "plain": is_plain(crop, window, size)}
        for crop, size in itertools.product([*noise, *framed], sizes_of_frames)
    ]
    assert {case["plain"] for case in plain} == {False, True}
    scene = rng.integers(0, 256, (3, 4, 3), np.uint8)
    pictures = [picture(rng, *size, scene) for size in (SIZE, (300, 200), (130, 97))] + [picture(rng, *SIZE)]
    thumbnails = [thumbnail(one) for one in pictures]
    cuts = [[is_cut(one, other) for other in thumbnails] for one in thumbnails]
    assert {cut for row in cuts for cut in row} == {False, True}
    thumbs = [
        {"width": one.shape[1], "height": one.shape[0], "image": packed(one), "thumbnail": small.ravel().tolist()}
        for one, small in zip(pictures, thumbnails, strict=True)
    ]
    return {
        "thumbs": thumbs,
        "cuts": cuts,
        "sure": sure.tolist(),
        "sizes": sizes,
        "windows": windows,
        "tiles": tiles,
        "limits": limits,
        "plain": plain,
    }


def distractors(rng):
    """Two objects, of which one goes; the other's box, where it was or near there, and the goner's own place."""
    background, objects = picture(rng, 180, 120) // 3, [picture(rng, 30, 24) for _ in range(2)]
    cases, places = [], [(25, 30), (100, 70)]
    for kept, moved, scale in itertools.product((0, 1), (0, 7, 29), (1, 2)):
        before, after = background.copy(), background.copy()
        for image, (x, y) in zip(objects, places, strict=True):
            before[y : y + 24, x : x + 30] = image
        x, y = places[kept]
        after[y : y + 24, x + moved : x + moved + 30] = objects[kept]
        target, found = scale * np.array([*places[0], 30.0, 24]), scale * np.array([x + moved, y, 30.0, 24])
        before, after = (cv2.resize(image, None, fx=scale, fy=scale) for image in (before, after))
        scene = Scene.of(before, target)
        cases.append(
            {
                "width": before.shape[1],
                "height": before.shape[0],
                "before": packed(before[..., ::-1]),
                "after": packed(after[..., ::-1]),
                "target": target.tolist(),
                "found": found.tolist(),
                "shows": scene.shows(Scene.of(after, found, scene.step)),
            }
        )
    assert {case["shows"] for case in cases} == {False, True}
    return cases


def memory():
    steps = []
    one = np.zeros(1, np.float32)
    held = TemplateMemory(5, 7, (Template(0, one, one, 0, one, one, one),))
    for frame in (10, 21, 22, 40, 41, 90, 95, 130, 200, 201, 202):
        held = held.add(Template(frame, one, one, 1, one, one, one))
        steps.append({"add": frame, "history": [t.frame for t in held.history], "chosen": held.chosen})
    return steps


def runs(rng):
    scene = rng.integers(0, 256, (3, 4, 3), np.uint8)
    frames = [picture(rng, *SIZE, scene) for _ in range(4)]
    frames += [np.full_like(frames[0], 80), picture(rng, *SIZE)]  # one that shows nothing, and one after a cut
    order = [5 if number % 19 == 18 else 1 + number % 3 if number % 23 else 4 for number in range(90)]
    changes = [
        {},
        {"interval": 4, "agreement": 0.5, "min_window": 0.42, "confident_score": 0.4, "capacity": 6},
        {"interval": 3, "lost_score": 0.3, "patience": 3, "found_score": 0.5, "agreement": 0.5, "likeness": -0.2},
        {"interval": 5, "lost_score": 0.4, "patience": 2, "found_score": 0.5, "likeness": -10},
        {"interval": 5, "retention": 0.5},
        {"interval": 3, "agreement": 0.1, "template_score": 0.2, "min_window": 0.42, "retention": 0.5},
        {"interval": 50, "lost_score": 0.2, "patience": 1, "found_score": 0.2, "likeness": -10},
        {"interval": 3, "min_window": 0.5, "min_template": 0.5, "templates": 3, "retention": 0.6},
        {"interval": 5, "min_template": 0.5, "lost_score": 0.3, "found_score": 0.5, "likeness": -0.2},
    ]
    cases, returns = [], 0
    for change in changes:
        engine = Scripted(rng, 240)
        tracker = Tracker(engine, TrackerSettings(**change), "rgb", Calibration(0.9, 0.05))
        tracker.init(frames[0], (50, 30, 24, 18))
        tracks = []
        for number in order:
            before = tracker.state.recovery
            tracks.append(tracker.update(frames[number]))
            returns += tracker.state.recovery.found and not before.seeking
        states = {track.state for track in tracks}
        assert states == ({"tracking", "uncertain", "lost"} if "lost_score" in change else {"tracking"})
        cases.append(
            {
                "settings": change,
                "logits": packed(engine.logits),
                "calls": engine.calls,
                "sizes": engine.sizes,
                "templates": [template.frame for template in tracker.state.memory.history],
                "tracks": [asdict(track) for track in tracks],
            }
        )
    assert returns  # a target that was found elsewhere was seen where it was lost
    config = asdict(Scripted(rng, 1).config)
    return {"config": config, "frames": [packed(frame) for frame in frames], "order": order, "cases": cases}


def write(path):
    """Write all values as JSON."""
    rng = np.random.default_rng(0)
    raw = [0.0, 1e-6, 0.2, 0.5, 0.93, 1.0]
    values = {
        "bins": BINS,
        "crops": crops(rng),
        "colors": colors(rng),
        "vocabulary": vocabulary(rng),
        "boxes": boxes(rng),
        "calibration": {"raw": raw, "chance": Calibration(0.8849, 0.0546).apply(raw).tolist()},
        "recovery": recovery(rng),
        "distractors": distractors(rng),
        "memory": memory(),
        "runs": runs(rng),
    }
    path.write_text(json.dumps(values))
