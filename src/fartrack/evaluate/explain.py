"""What the network sees and answers on single frames, as a picture (extra ``eval``)."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from fartrack.errors import FartrackError
from fartrack.geometry import FloatArray
from fartrack.model.vocabulary import BIN_CENTERS, HIGH, LOW
from fartrack.tracking.templates import Template, join
from fartrack.tracking.tracker import SearchRegion, Track, Tracker
from fartrack.video.frames import FrameSource

FOUND, PAST, WINDOW = "#ff2020", "#ffc000", "#20c0ff"
GAP = 4
"""Pixels between two templates in the picture."""


@dataclass(frozen=True, eq=False)
class Look:
    """One frame: what the network was shown, and what came of it.

    The ``attention`` ``(templates, tokens)`` that each of the templates' tokens receives is the mean of what the search
    tokens and the command tokens give it; NaN where a token was removed. All that there is sums to 1.
    """

    frame: int  # its number in the source
    region: SearchRegion  # the search window, its crop, and the past boxes
    shown: tuple[float, float]  # the shares of the window's width and height that the network was shown
    templates: list[Template]  # those that were asked, oldest first: the first alone on the frame of a check
    attention: FloatArray
    probabilities: FloatArray  # (4, V) of the coordinates x0, y0, x1, y1 over the bins
    track: Track


def looks(tracker: Tracker, source: FrameSource, box: ArrayLike, frames: Collection[int]) -> Iterator[Look]:
    """Track the object in ``box`` of the source's first frame, and look at the frames with these numbers; FartrackError
    if the box or a frame cannot be used, a number is not after the first frame's, or the source ends before it."""
    wanted, first, config = sorted(set(frames)), next(source), tracker.engine.config
    if not wanted or wanted[0] <= first.index:
        raise FartrackError(f"The frames to look at must come after the one with the box, which is {first.index}.")
    state = tracker.start(first.image, box)
    for frame in source:
        memory = tracker.prepared(state.memory)
        (answer,) = tracker.answers([replace(state, memory=memory)], [tracker.search_regions(state, frame.image)])
        state, track = tracker.conclude(state, answer)
        if frame.index in wanted:
            region, logits = answer.region, answer.logits
            templates = [memory.history[place] for place in ((0,) if region.usual else memory.chosen)]
            kv_cache = join(template.kv_cache for template in templates)[None]
            scores = tracker.engine.search_scored(region.pixels[None], region.tokens[None], kv_cache)[1][0]
            chances = np.exp(np.float64(logits - logits.max(-1, keepdims=True)))
            attention = np.full((len(templates), config.template_tokens), np.nan)
            ends = np.cumsum([template.kv_cache.shape[-2] for template in templates])
            for row, template, own in zip(attention, templates, np.split(scores, ends[:-1]), strict=True):
                row[slice(None) if template.keep is None else template.keep] = own / 2
            chances /= chances.sum(-1, keepdims=True)
            width, height = (side / config.search_size for side in region.shown)
            yield Look(frame.index, region, (width, height), templates, attention, chances, track)
        if frame.index >= wanted[-1]:
            return
    raise FartrackError(f"{source.name} ends before frame {wanted[-1]}; give frames that it has.")


def draw_looks(looked: list[Look]) -> Figure:
    """A line for each frame: the frame, with the search window in blue and the box in red; the window, with what was
    shown of it in blue and the past boxes in yellow; the distributions of the four sides; and the templates, each
    token as bright as the attention it receives."""
    figure = Figure(figsize=(17, 3.4 * len(looked)), layout="constrained")
    grid = figure.subplots(len(looked), 4, squeeze=False, width_ratios=(1.6, 1, 1.3, 1.7))
    for (whole, window, sides, templates), look in zip(grid, looked, strict=True):
        region, crop = look.region, look.region.window
        whole.imshow(region.frame[..., ::-1])
        _draw_boxes(whole, [(crop.x, crop.y, crop.side, crop.side)], WINDOW)
        _draw_boxes(whole, [look.track.box], FOUND)
        whole.set(title=f"frame {look.frame}: {look.track.state}, score {look.track.score:.2f}", xticks=[], yticks=[])

        window.imshow(crop.extract(region.frame, 448)[..., ::-1], extent=(0, 1, 1, 0))
        corners = crop.to_crop([*region.trajectory, look.track.box])
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        _draw_boxes(window, boxes[:-1], PAST)
        _draw_boxes(window, boxes[-1:], FOUND)
        width, height = look.shown
        _draw_boxes(window, [((1 - width) / 2, (1 - height) / 2, width, height)], WINDOW)
        window.set(title="search window", xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])

        for name, chances in zip(("left", "top", "right", "bottom"), look.probabilities, strict=True):
            sides.fill_between(BIN_CENTERS, chances, alpha=0.5, label=name)
        sides.axvspan(0, 1, color="#888", alpha=0.1)
        sides.set(xlim=(LOW, HIGH), ylim=(0, None), title="where the sides are; 0 to 1 is the window")
        sides.legend(fontsize=8)
        _draw_templates(templates, look)
    return figure


def _draw_templates(axes: Axes, look: Look) -> None:
    """The templates, removed tokens black, and the share of the attention to all of them that each has."""
    size, total, most = len(look.templates[0].crop), np.nansum(look.attention), np.nanmax(look.attention)
    tiles = []
    for template, own in zip(look.templates, look.attention, strict=True):
        n = round(len(own) ** 0.5)
        light = np.where(np.isnan(own), 0, 0.3 + 0.7 * own / most).reshape(n, n).astype(np.float32)
        bright = cv2.resize(light, (size, size), interpolation=cv2.INTER_NEAREST)[..., None]
        tiles.append(np.pad((template.crop * bright).astype(np.uint8), ((0, 0), (0, GAP), (0, 0)), constant_values=255))
        text = f"frame {template.frame}\n{np.nansum(own) / total:.0%}\n{np.isfinite(own).sum()} of {len(own)} tokens"
        axes.text((len(tiles) - 0.5) * (size + GAP), 1.1 * size, text, ha="center", va="top", fontsize=8)
    axes.imshow(np.concatenate(tiles, axis=1))
    wide = max(len(tiles), 3) * (size + GAP)
    axes.set(title=f"templates: {total:.0%} of the attention", xlim=(0, wide), ylim=(1.6 * size, 0))
    axes.set(xticks=[], yticks=[], frame_on=False)


def _draw_boxes(axes: Axes, boxes: Iterable[ArrayLike], color: str) -> None:
    for x, y, w, h in np.asarray(list(boxes), np.float64):
        axes.add_patch(Rectangle((x, y), w, h, fill=False, ec=color, lw=1.5))
