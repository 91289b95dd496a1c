"""Other ways of sparsification than the tracker's own, which the paper compares with: trackers to be used in its place.

The tracker's own decides once, on the frame after a template was taken, which of its tokens are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fartrack.engines.base import Floats
from fartrack.geometry import Crop, FloatArray, Image, clip_box
from fartrack.tracking.templates import Template, TemplateMemory, join
from fartrack.tracking.tracker import SearchRegion, Tracker


class RuntimeTracker(Tracker):
    """Decides anew on every frame which template tokens are kept: a first pass scores all of them, a second one, with
    those that are kept, finds the box. ``Template.keep`` is what the last frame chose; all tokens stay in memory."""

    def _undecided(self, memory: TemplateMemory) -> bool:
        return self.settings.retention < 1

    def _search(
        self, memories: Sequence[TemplateMemory], regions: Sequence[SearchRegion]
    ) -> tuple[Floats, Sequence[TemplateMemory]]:
        logits, after = super()._search(memories, regions)
        if self._undecided(memories[0]):
            for place, (memory, region) in enumerate(zip(after, regions, strict=True)):
                templates = [memory.history[i] for i in memory.chosen]
                kept = join(template.kv_cache[..., template.keep, :] for template in templates)
                logits[place] = self.engine.search(region.crop[None], region.tokens[None], kept[None])[0]
        return logits, after

    def _prune(self, memory: TemplateMemory, scores: Floats) -> TemplateMemory:
        ends = np.cumsum([memory.history[place].kv_cache.shape[-2] for place in memory.chosen])
        for place, own in zip(memory.chosen, np.split(scores, ends[:-1]), strict=True):
            template = memory.history[place]
            memory = memory.replace(place, replace(template, keep=template.best(own, self.settings.retention)))
        return memory


@dataclass(frozen=True)
class AdaptiveTemplate(Template):
    """Keeps tokens in proportion to ``share``: the part of the crop that the target's box covers, over the usual."""

    share: float = 1.0

    def prune(self, scores: Floats, retention: float) -> Template:
        """See :class:`Template`; ``retention`` is that of a square target, wholly in view."""
        return super().prune(scores, min(retention * self.share, 1.0))


class AdaptiveTracker(Tracker):
    """Keeps more tokens of a template that shows more of the target."""

    def _take_template(self, frame: Image, box: FloatArray, number: int, identity: int) -> Template:
        template = super()._take_template(frame, box, number, identity)
        factor = self.engine.config.template_factor
        shown = Crop.around(box, factor).to_crop(np.array(clip_box(box, *frame.shape[1::-1])))
        x0, y0, x1, y1 = np.clip(shown, 0, 1).tolist()
        share = (x1 - x0) * (y1 - y0) * factor**2
        return AdaptiveTemplate(template.frame, template.crop, identity, template.kv_cache, share=share)
