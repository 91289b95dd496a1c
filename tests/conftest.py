"""What tests of several rooms share."""

import os
import signal
import sys

import pytest

from fartrack.model.config import ModelConfig

# Several test processes share the machine; to be set before PyTorch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY = {"depth": 2, "width": 24, "heads": 3, "template_size": 32, "search_size": 64, "templates": 3}


@pytest.fixture
def command_in(monkeypatch, capfd):
    """A function that makes another: in a folder it runs ``fartrack COMMAND`` with the arguments it is called with, and
    returns what it says. ``module`` is what the command loads from that folder."""
    from fartrack.cli import main

    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers, loaded = [signal.getsignal(number) for number in signals], []
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which the command adds that folder

    def make(folder, command, module):
        monkeypatch.chdir(folder)
        loaded.append(module)

        def call(*arguments, code=0):
            monkeypatch.setattr(sys, "argv", ["fartrack", command, *arguments])
            with pytest.raises(SystemExit) as end:
                main()
            out, errors = capfd.readouterr()
            assert (end.value.code or 0) == code, errors
            return errors.strip() if code else out

        return call

    yield make
    for number, handler in zip(signals, handlers, strict=True):
        signal.signal(number, handler)
    for module in loaded:
        sys.modules.pop(module, None)


@pytest.fixture
def tiny():
    """A function that makes the configuration of a tiny network, with the given changes."""
    return lambda **changes: ModelConfig(**(TINY | changes))


@pytest.fixture
def random_network():
    """A function that makes a network with every parameter at random, so large that each one shows in the logits."""
    torch = pytest.importorskip("torch")
    from fartrack.model.encoder import FARTrack

    def make(config, seed=0):
        network, generator = FARTrack(config).eval(), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + ("norm" in name))
        return network

    return make


@pytest.fixture(scope="session")
def demo_clip():
    """The first 60 frames (uint8 BGR) of the demo clip, and their true boxes."""
    from itertools import islice

    from fartrack.demo import demo_frames

    frames, boxes = zip(*islice(demo_frames(), 60), strict=True)
    return frames, boxes
