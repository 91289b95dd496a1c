"""What of the tracking loop may be chosen at run time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fartrack.config import check_numbers, from_dict
from fartrack.errors import FartrackError
from fartrack.packages import PRESETS


@dataclass(frozen=True)
class TrackerSettings:
    """What may be chosen at run time. Scores here are raw ones, whether or not the model is calibrated.

    Attributes:
        templates: the most templates used at once; 1 keeps to the first frame's.
        interval: frames between two templates.
        template_score: a template is taken only from a frame whose score is at least this.
        agreement: 0, or the least IoU of the box with that which the first template alone finds, for a template to be
            taken on the next frame: only the first is sure to show the target. On the frame of this check it is asked
            before all templates, about more of the search window, and they only if it is not as sure as
            ``template_score`` that the target is where it was. Where it is sure and they disagree, its box is used.
        hold_score: on a frame whose score is under this, the box stays where it was.
        lost_score: 0, or recovery: a frame whose score is under this (0.2, say) is doubtful, the target keeps its size
            and gives no template; its sides change no faster than is usual; and it may be lost, and is sought then.
        likeness: a frame is doubtful too if what the box shows is less like the templates than this (1: the same, 0:
            rather like what surrounds the target). It is compared when a template is due, after a cut, and on every
            frame while the target is not followed for sure.
        patience: so many doubtful frames in a row, and the target is lost.
        found_score: a lost target is found where the score is at least this, the first template alone agrees, and the
            next frame confirms it.
        size_step: least bound on the change of the logarithm of the box's sides from frame to frame; three times what
            is usual for the target where that is more.
        capacity: the most templates remembered, whatever the length of the video.
        min_template: least share of the template window's side whose tokens are kept of a template after the first;
            more where the target's longer side asks for it. 1 keeps all.
        retention: share of each template's tokens that are kept once the frame after it has scored them.
        min_window: least share of the search window's width and height that is shown while the target is slow and the
            last score at least ``confident_score``; more where its size and speed along that side ask for it. 1 always
            shows the whole window. The time of a frame goes with the product of both.
        confident_score: see ``min_window``.
    """

    templates: int = 5
    interval: int = 20
    template_score: float = 0.5
    agreement: float = 0.0
    hold_score: float = 0.1
    lost_score: float = 0.0
    likeness: float = 0.5
    patience: int = 3
    found_score: float = 0.6
    size_step: float = 0.2
    capacity: int = 16
    min_template: float = 1.0
    retention: float = 1.0
    min_window: float = 1.0
    confident_score: float = 0.6

    def __post_init__(self) -> None:
        """Check every field once; errors name the field."""
        check_numbers(self, templates=(1, 16), interval=(1, 10**9), template_score=(0, 1), hold_score=(0, 1))
        check_numbers(self, capacity=(max(self.templates, 2), 4096), retention=(0.01, 1))
        check_numbers(self, agreement=(0, 1), min_template=(0.3, 1), min_window=(0.05, 1), confident_score=(0, 1))
        check_numbers(
            self, lost_score=(0, 1), likeness=(-10, 1), patience=(1, 10**9), found_score=(0, 1), size_step=(0.001, 10)
        )

    @property
    def recovers(self) -> bool:
        """Whether a loss is noticed, and a lost target sought."""
        return self.lost_score > 0


def parse_settings(
    model_settings: Mapping[str, Any],
    changes: Iterable[str] = (),
    presets: Mapping[str, Mapping[str, Any]] = PRESETS,
) -> TrackerSettings:
    """A model's own settings with changes on top, each written as ``key=value``, such as ``interval=40``;
    ``preset=NAME`` stands for all those of a preset.

    Raises:
        FartrackError: a change is not ``key=value``, its key is not a setting, or its value is not one for that key.
    """
    values = dict(model_settings)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise FartrackError(f"The setting {change!r} is not KEY=VALUE; give one such as interval=40.")
        if name.strip() != "preset":
            values[name.strip()] = _parse_value(text.strip())
        elif text.strip() in presets:
            values |= presets[text.strip()]
        else:
            raise FartrackError(f"There is no preset {text.strip()!r:.60}; those are {', '.join(presets)}.")
    return from_dict(TrackerSettings, values)


def _parse_value(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
