"""Track mutated files: whatever is in them, the command ends in time, with exit code 0 or 2 and no traceback.

python benchmarks/fuzz.py --count 10000 --seed 0

Small files of ten formats are made, bytes of theirs are changed, removed, doubled or cut off, and ``fartrack track``
runs over each in a child process, forked from one that has imported everything; a stub stands in for the network.
Failures are kept in a folder. POSIX only. docs/files.md has the counts.
"""

from __future__ import annotations

import argparse
import collections
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

import fartrack.cli.evaluate
import fartrack.cli.track as track
import fartrack.cli.train  # noqa: F401  (all that the command imports, once)
from fartrack.cli import main
from fartrack.model.config import ModelConfig
from fartrack.model.vocabulary import BINS
from fartrack.tracking.tracker import Tracker

FRAMES, SIZE = 12, (96, 64)
BUSY, LIMIT = 10, 60  # seconds a file: of the processor, and by the clock, as the machine may be busy
MEMORY = 4 << 30  # bytes of address space
CODECS = {"mp4": "libx264", "mov": "mjpeg", "mkv": "libx264", "webm": "libvpx", "avi": "mpeg4", "ts": "libx264"}
CODECS |= {"flv": "flv"}
ANIMATIONS = ("gif", "png", "webp", "tif")


class Stub:
    """A network that sees nothing, so that every box stays where it is."""

    config = ModelConfig()

    def begin_templates(self, crops, identities, boxes):
        return np.zeros((len(crops), 1, 1, 49, 2), np.float32), None

    def search(self, crops, trajectory, kv_cache):
        return np.zeros((len(crops), 4, BINS), np.float32)


def make_files(folder: Path) -> list[Path]:
    rng, paths = np.random.default_rng(0), []
    images = [rng.integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8) for _ in range(FRAMES)]
    for suffix, codec in CODECS.items():
        paths.append(folder / f"whole.{suffix}")
        with av.open(str(paths[-1]), "w") as container:
            stream = container.add_stream(codec, rate=25, options={"g": "5"})
            stream.width, stream.height = SIZE
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for i, image in enumerate(images):
                picture = av.VideoFrame.from_ndarray(image, format="bgr24")
                picture.pts, picture.time_base = i, Fraction(1, 25)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    for suffix in ANIMATIONS:
        paths.append(folder / f"whole.{suffix}")
        animation = cv2.Animation()
        animation.frames, animation.durations = images, np.full(FRAMES, 40)
        written = cv2.imwritemulti if suffix == "tif" else cv2.imwriteanimation
        assert written(str(paths[-1]), images if suffix == "tif" else animation)
    return paths


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    for _ in range(rng.integers(1, 6)):
        reach = len(data) if rng.random() < 0.5 else min(len(data), 1500)  # half of them in the header
        at, length = int(rng.integers(0, max(reach, 1))), int(2 ** rng.uniform(0, 9))
        kind = rng.integers(0, 6)
        if kind == 0:
            data = data[:at] + rng.bytes(length) + data[at + length :]
        elif kind == 1:
            data = data[:at] + data[at + length :]
        elif kind == 2:
            data = data[:at] + data[at : at + length] + data[at:]
        elif kind == 3:
            data = data[: max(int(rng.integers(0, len(data) + 1)), 1)]
        elif kind == 4:
            data = data[:at] + bytes([int(rng.choice([0, 0x7F, 0x80, 0xFF]))]) * min(length, 8) + data[at + 8 :]
        else:
            data = data[:at] + bytes([data[at] ^ (1 << int(rng.integers(0, 8)))]) + data[at + 1 :] if data else b"\0"
    return data


def child(path: Path, place: Path) -> None:
    """Run the command over one file, in a process of its own; does not return."""
    os.chdir(place)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (BUSY, BUSY))
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["fartrack", "track", str(path), "--box", "5,5,20,20", "--csv", "out.csv", "-o", "out.mp4"]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(path: Path, place: Path) -> tuple[str, str]:
    """What became of one file, and what is wrong with that, if anything."""
    place.mkdir()
    begin, process = time.monotonic(), os.fork()
    if process == 0:
        child(path, place)
    status, hangs = None, False
    while status is None:
        ended, found = os.waitpid(process, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(found)
        elif time.monotonic() - begin > LIMIT and not hangs:
            hangs = True
            os.kill(process, signal.SIGKILL)
        else:
            time.sleep(0.002)
    said = (place / "stderr").read_text(errors="replace").splitlines()
    said = [line for line in said if not line.startswith("libpng ")]  # it writes there by itself
    told = (place / "stdout").read_text(errors="replace")
    rows = len((place / "out.csv").read_text().splitlines()) - 1 if (place / "out.csv").exists() else 0
    wrong = [
        "takes too long" if hangs or status in (-signal.SIGXCPU, -signal.SIGKILL) else "",
        f"exit code {status}" if status not in (0, 2) else "",
        "a traceback" if any("Traceback" in line for line in said) else "",
        "a line not of ours" if any(not line.startswith("fartrack: ") for line in said) else "",
        "no sentence" if status == 2 and not said else "",
        "no frame, but exit code 0" if status == 0 and not rows else "",
        "another number of frames" if rows and f"tracked {rows} frames" not in told else "",
        "a .part file" if [*place.glob(".*.part")] else "",
    ]
    kind = f"exit {status}" + (" with frames" if rows and status else "")
    return kind, ", ".join(filter(None, wrong))


def work(files: list[bytes], names: list[str], numbers: range, seed: int, folder: Path) -> None:
    """The cases of one worker; its counts are left in a file."""
    counts: collections.Counter[str] = collections.Counter()
    for number in numbers:
        rng = np.random.default_rng((seed, number))
        which = number % len(files)
        path, place = folder / f"{number}.{names[which]}", folder / f"run-{number}"
        path.write_bytes(mutate(files[which], rng))
        kind, wrong = run(path, place)
        counts[kind] += 1
        if wrong:
            counts["WRONG"] += 1
            errors = (place / "stderr").read_text(errors="replace").strip().splitlines()[-1:]
            print(f"{path.name}: {wrong} {errors}", flush=True)
        else:
            path.unlink()
        shutil.rmtree(place)
    (folder / f"counts-{numbers.start}").write_text("\n".join(f"{count}\t{kind}" for kind, count in counts.items()))


def fuzz(count: int, seed: int, workers: int, first: int) -> int:
    track.load = lambda *_, **__: Tracker(Stub())  # type: ignore[assignment]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    paths = make_files(folder)
    files, names = [path.read_bytes() for path in paths], [path.suffix[1:] for path in paths]
    begin, processes = time.monotonic(), []
    for worker in range(workers):
        process = os.fork()
        if process == 0:
            work(files, names, range(first + worker, first + count, workers), seed, folder)
            os._exit(0)
        processes.append(process)
    for process in processes:
        os.waitpid(process, 0)
    counts: collections.Counter[str] = collections.Counter()
    for path in folder.glob("counts-*"):
        for line in path.read_text().splitlines():
            number, kind = line.split("\t")
            counts[kind] += int(number)
    print(f"{count} files of {', '.join(names)} in {time.monotonic() - begin:.0f} s: {dict(sorted(counts.items()))}")
    if counts["WRONG"]:
        print(f"kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    arguments = parser.parse_args()
    sys.exit(fuzz(arguments.count, arguments.seed, arguments.workers, arguments.first))
