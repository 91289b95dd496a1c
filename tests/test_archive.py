"""An archive is tracked once, whatever is killed on the way; what fails is told."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import fartrack
from fartrack.archive import (
    ATTEMPTS,
    MANIFEST,
    archive_jobs,
    processes,
    ray_cluster,
    run_archive,
    track_job,
)
from fartrack.errors import FartrackError
from fartrack.files import read_json_lines
from fartrack.video import Frame, VideoSink

OPTIONS = {"model": "pico", "threads": 1}
BOX = (108, 95, 91, 84)


@pytest.fixture(scope="module")
def videos(tmp_path_factory, demo_clip):
    """Three clips of some frames, one of them in a folder, and one that is no video; their targets in targets.csv."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "sub").mkdir()
    for number, name in enumerate(("a.mp4", "b.mp4", "sub/c.mp4")):
        with VideoSink(folder / name, 25) as sink:
            for index, image in enumerate(demo_clip[0][: 4 + number]):
                sink.write(Frame(index, index / 25, image), {})
    (folder / "broken.mp4").write_text("no video\n" * 50)
    names = ("a.mp4", "b.mp4", "sub/c.mp4", "broken.mp4")
    rows = [f"{name},{','.join(map(str, BOX))},cup" for name in names]
    (folder / "targets.csv").write_text("\n".join(["video,x,y,w,h,name", *rows, "b.mp4,20,20,40,40,grass"]))
    return folder


@pytest.fixture
def plan(videos, tmp_path):
    """A function that makes the jobs of a copy of that archive."""
    shutil.copytree(videos, tmp_path / "videos")

    def make(**options):
        where = tmp_path / "videos"
        return archive_jobs(where, where / "targets.csv", tmp_path / "out", ["csv"], OPTIONS | options)

    return make


def here(done):
    """What runs a job in this process, and notes its name in ``done``."""

    def submit(job):
        future = Future()
        future.set_result(track_job(job))
        done.append(job.name)
        return future

    return submit


def test_nothing_is_done_twice(plan, tmp_path):
    done, out = [], tmp_path / "out"
    rows = {row["video"]: row for row in run_archive(plan(), out, here(done), 2)}
    assert done == ["a.mp4", "b.mp4", "sub/c.mp4", "broken.mp4"]
    assert {name: row["frames"] for name, row in rows.items()} == {
        "a.mp4": 4,
        "b.mp4": 5,
        "sub/c.mp4": 6,
        "broken.mp4": 0,
    }
    assert "is not a video" in rows["broken.mp4"]["error"] and not rows["a.mp4"]["error"]
    text = (out / "b.mp4.csv").read_text().splitlines()
    assert len(text) == 1 + 2 * 5 and (out / "sub" / "c.mp4.csv").exists()
    tracks = [track.box for track in fartrack.track_video(tmp_path / "videos" / "a.mp4", BOX)]
    found = np.genfromtxt(out / "a.mp4.csv", delimiter=",", names=True, usecols=range(2, 8))
    np.testing.assert_allclose([list(row)[:4] for row in found.tolist()], tracks, atol=1e-3)

    done.clear()
    with (out / MANIFEST).open("a") as file:
        file.write('{"video": "a.m')  # cut short by a kill
    assert {row["video"]: row for row in run_archive(plan(), out, here(done), 2)} == rows and not done
    run_archive(plan(), out, here(done), 2, retry=True)
    assert done == ["broken.mp4"]
    done.clear()
    (out / "a.mp4.csv").unlink()
    shutil.copy(tmp_path / "videos" / "a.mp4", tmp_path / "videos" / "broken.mp4")  # mended
    assert not any(row["error"] for row in run_archive(plan(), out, here(done), 2))
    assert done == ["a.mp4", "broken.mp4"]
    done.clear()
    run_archive(plan(interval=3), out, here(done), 2)
    assert len(done) == 4


def test_a_process_that_keeps_failing_is_told(plan, tmp_path):
    calls = []

    def submit(job):
        if job.name != "b.mp4":
            return here([])(job)
        calls.append(job)
        future = Future()
        future.set_exception(RuntimeError("gone"))
        return future

    rows = {row["video"]: row["error"] for row in run_archive(plan(), tmp_path / "out", submit, 2)}
    assert len(calls) == ATTEMPTS and rows["b.mp4"].startswith("Its process failed 3 times (RuntimeError)")
    assert rows["a.mp4"] is None


def test_a_killed_process_loses_nothing(plan, tmp_path):
    killed = []
    with processes(1) as submit:

        def submit_and_kill(job):
            future = submit(job)
            while not killed and not future.done():
                for process in multiprocessing.active_children():
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                time.sleep(0.05)
            return future

        rows = run_archive(plan(), tmp_path / "out", submit_and_kill, 1)
    assert killed and {row["video"] for row in rows if not row["error"]} == {"a.mp4", "b.mp4", "sub/c.mp4"}
    assert len(read_json_lines(tmp_path / "out" / MANIFEST)) == 4
    assert not [*tmp_path.rglob("*.part")]


def test_what_a_killed_process_left_is_removed(plan, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".a.mp4.csv.123.part").touch()
    assert not track_job(plan()[0])["error"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mp4.csv"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["x,y,w,h", "1,2,3,4"], "target 1 lacks video"),
        (["video,x,y,w,h", "../a.mp4,1,2,3,4"], r"names the video \.\./a\.mp4; give its path within"),
        (["video,x,y,w,h", "a.mp4,1,2,3,"], "target 1 lacks h"),
        (["video,x,y,w,h,c", "a.mp4,1,2,3,4,5"], "'c' is no column"),
    ],
)
def test_targets_that_cannot_be_used_are_one_sentence(tmp_path, lines, words):
    path = tmp_path / "targets.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(FartrackError, match=words):
        archive_jobs(tmp_path, path, tmp_path / "out", ["csv"], OPTIONS)


def test_the_command(videos, tmp_path, command_in):
    run = command_in(tmp_path, "archive", "none")
    arguments = (
        str(videos),
        "--targets",
        str(videos / "targets.csv"),
        "-o",
        "out",
        "--jobs",
        "1",
        "--formats",
        "csv,mot",
    )
    told = run(*arguments, code=2)
    assert told.startswith("fartrack: 1 of 4 videos failed")
    assert {path.name for path in Path("out").rglob("*.mot")} == {"a.mp4.mot", "b.mp4.mot", "c.mp4.mot"}
    assert "'x' is no format" in run(*arguments[:-1], "x", code=2)
    if not any(Path(entry, "ray").is_dir() for entry in sys.path):
        assert "pip install 'fartrack[ray]'" in run(*arguments, "--ray", "auto", code=2)


@pytest.fixture
def cluster():
    """A Ray cluster of two nodes on this machine, each with one processor: its address and its processes."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    folder = tempfile.mkdtemp(prefix="ray-")  # not in tmp_path: the paths of sockets are short
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1"]
    head = ["--head", "--port", "6399", "--include-dashboard", "false", "--disable-usage-stats", "--temp-dir", folder]
    nodes = []
    for options in (head, ["--address", "127.0.0.1:6399"]):
        log, end = Path(folder, f"node-{len(nodes)}.log"), time.monotonic() + 120
        with log.open("w") as file:
            env = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
            streams = {"stdout": file, "stderr": file}
            nodes.append(subprocess.Popen([*start, *options], env=env, start_new_session=True, **streams))
        while "Ray runtime started" not in log.read_text():
            assert nodes[-1].poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.5)
    yield "127.0.0.1:6399", nodes
    for node in reversed(nodes):
        node.terminate()  # it ends what it started
        node.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


def workers_of(nodes):
    """The processes of a cluster that track."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (path / "cmdline").read_bytes().startswith(b"ray::track_job"):
                above = pid = int(path.name)
                while above > 1 and above not in {node.pid for node in nodes}:
                    above = int(Path(f"/proc/{above}/stat").read_text().rpartition(")")[2].split()[1])
                found += [pid] if above > 1 else []
    return found


def test_a_ray_cluster_of_two_nodes_and_a_killed_worker(plan, tmp_path, cluster):
    address, nodes = cluster
    killed = []
    with ray_cluster(address) as (submit, width):
        assert width == 2

        def submit_and_kill(job):
            future = submit(job)
            while not killed and not future.done():
                for pid in workers_of(nodes)[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                time.sleep(0.02)
            return future

        rows = run_archive(plan(), tmp_path / "out", submit_and_kill, width)
    assert killed and {row["video"] for row in rows if not row["error"]} == {"a.mp4", "b.mp4", "sub/c.mp4"}
    assert len(read_json_lines(tmp_path / "out" / MANIFEST)) == 4
    with pytest.raises(FartrackError, match="There is no Ray cluster at 127"), ray_cluster("127.0.0.1:6398"):
        pass
