"""From a run's checkpoint to a model package."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from fartrack.errors import FartrackError
from fartrack.export import export
from fartrack.model.encoder import FARTrack
from fartrack.model.init_weights import load_weights, start_from
from fartrack.train.state import CHECKPOINT, load_checkpoint


def export_checkpoint(
    checkpoint: Path,
    folder: Path,
    depth: int | None = None,
    exits: Mapping[str, int] | None = None,
    int8: Collection[int] | None = None,
    mean: Sequence[Path] = (),
) -> None:
    """Export the averaged weights of a training run's checkpoint, with what is known of the run.

    Of the first ``depth`` layers only, if given; ``folder``, ``exits``, ``int8``: see :func:`fartrack.export.export`.
    The mean is taken with further checkpoints or weights (Wortsman et al., "Model soups", 2022). FartrackError if one
    cannot be read or is of another model, or there is no such exit.
    """
    run = load_checkpoint(checkpoint)
    recipe = run.recipe
    if depth is not None and not 1 <= depth <= recipe.model.depth:
        raise FartrackError(f"The network has no exit after layer {depth}; give 1 to {recipe.model.depth}.")
    network = FARTrack(replace(recipe.model, depth=depth or recipe.model.depth))
    states = []
    for path, weights in [(checkpoint, run.part("ema")), *((path, load_weights(path)) for path in mean)]:
        if not weights or start_from(network, weights):
            raise FartrackError(f"{path} has no averaged weights of its model; give a run's {CHECKPOINT}.")
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
    network.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]})
    training = {key: value for key, value in asdict(recipe).items() if key != "model"}
    about = {"settings": recipe.settings, "samples": run.samples, "steps": run.step, "training": training}
    if mean:
        about["mean_of"] = len(states)
    export(network, folder, about, exits, int8)
