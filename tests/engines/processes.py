"""Trackers in forked and spawned processes, pickled, copied, and in threads find the same boxes.

Run by test_forks.py, for the engine that the environment variable ENGINE names.
"""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import fartrack

TIMEOUT = 60
LIBRARIES = {"torch": ("torch", "safetensors"), "openvino": ("openvino",)}
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(scope="module", params=[os.environ.get("ENGINE", "onnxruntime")])
def tracker(request, demo_clip):
    """A tracker with two threads that has tracked, so that what it opened is in use."""
    for library in LIBRARIES.get(request.param, ()):
        pytest.importorskip(library)
    tracker = fartrack.load(engine=request.param, threads=2, interval=2)
    tracker.init(demo_clip[0][0], demo_clip[1][0])
    for frame in demo_clip[0][1:3]:
        tracker.update(frame)
    return tracker


@pytest.fixture(scope="module")
def frames(demo_clip):
    return demo_clip[0][3:6]


@pytest.fixture(scope="module")
def expected(tracker, frames):
    return follow(tracker, frames)


def follow(tracker, frames):
    """The boxes on the next frames, the tracker's own state left as it is."""
    boxes, state = [], tracker.state
    for frame in frames:
        state, track = tracker.step(state, frame)
        boxes.append(track.box)
    return boxes


def follow_many(many, frames):
    return [[track.box for track in many.update(frame).values()] for frame in frames]


def answer(pipe, function, arguments):
    pipe.send(function(*arguments))


def in_process(how, function, *arguments):
    """What a function returns in another process."""
    context = multiprocessing.get_context(how)
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs, function, arguments))
    process.start()
    try:
        assert ours.poll(TIMEOUT), f"the {how}ed process hangs"
        return ours.recv()
    finally:
        process.join(5)
        process.kill()


@pytest.mark.parametrize("how", [pytest.param("fork", marks=FORKS), "spawn"])
def test_in_another_process(tracker, frames, expected, how):
    assert in_process(how, follow, tracker, frames) == expected
    assert follow(tracker, frames) == expected  # and the parent goes on


@FORKS
def test_in_the_fork_of_a_fork(tracker, frames, expected):
    assert in_process("fork", in_process, "fork", follow, tracker, frames) == expected


@pytest.mark.parametrize("how", [pytest.param("fork", marks=FORKS), "spawn"])
def test_several_targets_in_another_process(tracker, demo_clip, how):
    many = fartrack.MultiTracker(tracker)
    many.add(demo_clip[0][0], demo_clip[1][0])
    many.add(demo_clip[0][0], (200, 100, 60, 80))
    many.update(demo_clip[0][1])
    found = in_process(how, follow_many, many, demo_clip[0][2:4])
    assert found == follow_many(many, demo_clip[0][2:4])


@FORKS
def test_a_pool_of_processes(tracker, frames, expected):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = [pool.apply_async(follow, (tracker, frames)) for _ in range(3)]
        assert [result.get(TIMEOUT) for result in found] == [expected] * 3


class Boxes:
    """A data set whose items are found by a tracker."""

    def __init__(self, tracker, frames):
        self.tracker, self.frames = tracker, frames

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return follow(self.tracker, self.frames)


def test_workers_of_a_data_loader(tracker, frames, expected):
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(Boxes(tracker, frames), num_workers=2, timeout=TIMEOUT, collate_fn=lambda items: items[0])
    assert list(loader) == [expected] * 2


def test_copies(tracker, frames, expected):
    for other in (copy.copy(tracker), copy.deepcopy(tracker), pickle.loads(pickle.dumps(tracker))):
        assert [other.update(frame).box for frame in frames] == expected
    state = pickle.loads(pickle.dumps(tracker.state))
    for frame in frames:
        state, track = tracker.step(state, frame)
    assert track.box == expected[-1]
    assert follow(tracker, frames) == expected  # none of them moved it


def test_threads_that_share_a_tracker(tracker, frames, expected):
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(follow, tracker, frames) for _ in range(4)]
        assert [result.result(TIMEOUT) for result in found] == [expected] * 4


def test_signals_after_trackers_were_closed(tracker):
    """A runtime that changed the stack on which signals are handled must not leave one that has gone."""
    script = f"""
import faulthandler, fartrack, gc, os, signal
faulthandler.enable()
signal.signal(signal.SIGTERM, lambda number, frame: print("handled"))
trackers = [fartrack.load(engine="{os.environ.get("ENGINE", "onnxruntime")}", threads=1) for _ in range(2)]
del trackers[0], trackers[0]
gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout.strip() == b"handled"


@FORKS
@pytest.mark.parametrize("used", [False, True])
def test_a_fork_ends_by_itself(used):
    """Whether or not it tracks: what it inherits and cannot close does not keep it."""
    script = f"""
import os, sys, numpy, fartrack
tracker, frame = fartrack.load(threads=2), numpy.zeros((90, 120, 3), numpy.uint8)
tracker.init(frame, (30, 30, 20, 20))
if child := os.fork():
    sys.exit(os.waitpid(child, 0)[1])
if {used}:
    tracker.update(frame)
"""
    clock = time.monotonic()
    subprocess.run([sys.executable, "-c", script], check=True, timeout=TIMEOUT)
    assert time.monotonic() - clock < TIMEOUT
