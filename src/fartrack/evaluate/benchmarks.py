"""The field's benchmarks: where each keeps its sequences, and the rules by which it measures.

Those published are in benchmarks.toml. Their layouts are those of the archives; splits and frame ranges are facts from
their own toolkits and from the GOT-10k toolkit (``got10k`` 0.1.3), which reads several of them.
"""

import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fartrack.config import from_dict
from fartrack.datasets.layouts import LAYOUTS, Layout, is_picture, layout_of, path_from, read_text
from fartrack.datasets.sequences import Part, Sequence, list_videos, packed_sequence, read_sequence
from fartrack.errors import FartrackError
from fartrack.evaluate.metrics import GOT10K, LASOT, NFS, OTB, PLAIN, TRACKINGNET, Rules
from fartrack.progress import progress


@dataclass(frozen=True)
class Published:
    """How a benchmark is published."""

    layout: Layout  # of the folder of a sequence
    rules: Rules  # by which it measures
    count: int  # number of sequences
    folders: tuple[str, ...] = ("*",)  # patterns of the sequences' folders; the first that matches any is used
    lists: tuple[str, ...] = ()  # files with a sequence name per line; the first that exists is used
    names: tuple[str, ...] = ()  # the sequences, if no list comes with them
    # the sequences of each folder that does not hold exactly one with all its frames
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    first_box_only: bool = False  # of each sequence
    labels_required: bool = True  # every sequence comes with its labels of absence
    attributes: str = ""  # names of the flags in a file of ``labels``, in their order
    # files of flags or of attribute names, from the sequence's folder or the dataset's; often missing
    labels: tuple[str, ...] = ("att/NAME.txt", "attributes/NAME.txt")


RULES = {"GOT-10k": GOT10K, "LaSOT": LASOT, "NFS": NFS, "OTB": OTB, "TrackingNet": TRACKINGNET}


def _published(values: dict[str, Any]) -> Published:
    """A benchmark from a table of benchmarks.toml, where ``names`` are of folders in one text."""
    parts = {name: tuple(Part(*part) for part in parts) for name, parts in values.pop("parts", {}).items()}
    folders, rules = values.pop("names", "").split(), RULES[values.pop("rules")]
    names = tuple(part.name for folder in folders for part in parts.get(folder, (Part(folder),)))
    return from_dict(Published, {**values, "rules": rules, "parts": parts, "names": names})


BENCHMARKS: dict[str, Published | None] = {
    name: _published(values)
    for name, values in tomllib.loads(Path(__file__).with_name("benchmarks.toml").read_text()).items()
} | {"folder": None}
"""All benchmarks by name; ``folder`` is any folder of videos beside their texts, or of sequences in a known layout."""


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Sequences, and the rules by which results on them are measured."""

    name: str
    sequences: list[Sequence]
    rules: Rules


def open_benchmark(name: str, folder: Path, only: Collection[str] | None = None) -> Benchmark:
    """The benchmark of this name, from a folder in its published layout.

    Every ground truth is read and every picture counted, so that an incomplete download is noticed before anything
    runs; no picture is decoded (of each video, the first frame is). Of sequences that are not in ``only``, if given,
    nothing is needed. FartrackError if there is no such benchmark, folder or sequence, or the dataset is incomplete:
    what was expected, what was found, and the first fault.
    """
    if name not in BENCHMARKS:
        raise FartrackError(f"There is no benchmark {name!r}; give one of {', '.join(BENCHMARKS)}.")
    try:
        if not folder.is_dir():
            raise FartrackError(f"There is no folder {folder}; give the one that holds {name}.")
        next(folder.iterdir(), None)  # `glob` hides that a folder may not be read
        published = BENCHMARKS[name]
        if published is None:
            return Benchmark(name, _any_sequences(folder, only), PLAIN)
        return Benchmark(name, _published_sequences(name, published, folder, only), published.rules)
    except OSError as error:
        raise FartrackError(f"{error.filename} cannot be read: {error.strerror}; check its permissions.") from None


def from_starts(benchmark: Benchmark, starts: Iterable[int]) -> Benchmark:
    """The benchmark with each sequence once from each of these frames on which its target is visible; FartrackError if
    one is negative, no sequence has any, or only the first boxes are published."""
    starts = sorted(set(starts))
    if not starts or starts[0] < 0:
        raise FartrackError(f"The starts are {starts}; list frames, counted from 0, such as 0,5,10.")
    if any(len(sequence.boxes) == 1 for sequence in benchmark.sequences):
        raise FartrackError(f"{benchmark.name} publishes only the first boxes; track it from the first frame alone.")
    parts = [part for sequence in benchmark.sequences for start in starts if (part := sequence.since(start))]
    if not parts:
        raise FartrackError(f"No sequence shows its target on the frames {starts}; give others.")
    return replace(benchmark, sequences=parts)


def _published_sequences(name: str, published: Published, root: Path, only: Collection[str] | None) -> list[Sequence]:
    found: dict[str, tuple[Path, Part]] = {}
    for folder in _folders(root, published):
        for part in published.parts.get(folder.name, (Part(folder.name),)):
            if part.name in found:
                both = f"{found[part.name][0]} and {folder}"
                raise FartrackError(f"{both} are both named {part.name}; remove one of them.")
            found[part.name] = folder, part
    listed = _listed(root, published) or published.names
    wanted, expected = listed or sorted(found), len(listed) or published.count
    if only is not None:
        _check_known(only, wanted, f"{name} in {root}")
        wanted, expected = [each for each in wanted if each in only], len(only)
    sequences, faults = [], []
    for each in progress(wanted, f"opening {name}"):
        try:
            if each not in found:
                raise FartrackError(f"the sequence {each} is missing; download it.")
            folder, part = found[each]
            options = {"first_box_only": published.first_box_only, "labels_required": published.labels_required}
            sequence = read_sequence(folder, published.layout, part, **options)
            sequences.append(replace(sequence, attributes=_attributes(root, folder, part.name, published)))
        except FartrackError as error:
            faults.append(str(error))
    if len(wanted) != expected:
        faults.append(f"there are folders of {len(wanted)} sequences, not of {expected}; download all of it.")
    if faults:
        usable = f"{len(sequences)} of {expected} sequences can be used"
        raise FartrackError(f"{name} in {root} is incomplete, {usable}: {faults[0]}")
    return sequences


def _folders(root: Path, published: Published) -> list[Path]:
    """The folders of sequences, complete or not, by the first pattern that matches any."""
    layout = published.layout
    for pattern in published.folders:
        folders = [path for path in sorted(root.glob(pattern)) if not path.name.startswith((".", "__MACOSX"))]
        if found := [each for each in folders if layout.pictures_of(each).is_dir() or layout.truth_of(each).is_file()]:
            return found
    return []


def _listed(root: Path, published: Published) -> tuple[str, ...]:
    for path in published.lists:
        if (root / path).is_file():
            return tuple(dict.fromkeys(name for line in read_text(root / path).splitlines() if (name := line.strip())))
    return ()


def _check_known(only: Collection[str], names: Collection[str], where: str) -> None:
    for unknown in sorted(set(only) - set(names)):
        known = f"it has {len(names)} others, such as {min(names)}" if names else "it has none; check the folder"
        raise FartrackError(f"{where} has no sequence {unknown}; {known}.")


def _attributes(root: Path, folder: Path, name: str, published: Published) -> frozenset[str]:
    """From the first file of attributes that exists: its flags, or the names in it."""
    known = published.attributes.split()
    labels = [pattern.replace("NAME", name) for pattern in published.labels]
    paths = [path for label in labels for path in (path_from(folder, label, name), root / label) if path.is_file()]
    if not known or not paths:
        return frozenset()
    words = read_text(paths[0]).replace(",", " ").split()
    if len(words) == len(known) and set(words) <= {"0", "1"}:
        words = [each for each, flag in zip(known, words, strict=True) if flag == "1"]
    for word in words:
        if word not in known:
            fix = f"use {', '.join(known)}, or 0 or 1 for each of these {len(known)}"
            raise FartrackError(f"{paths[0]} names an attribute {word[:20]!r}; {fix}.")
    return frozenset(words)


def _any_sequences(root: Path, only: Collection[str] | None) -> list[Sequence]:
    """Videos beside their texts; or else folders in any known layout: this one, its subfolders, or theirs."""
    names = [video.stem for video in list_videos(root)]
    if names:
        chosen = [video for video in list_videos(root) if only is None or video.stem in only]
        sequences = [packed_sequence(video) for video in progress(chosen, "opening videos")]
    else:
        for pattern in ("", "*", "*/*"):
            folders = sorted(root.glob(pattern)) if pattern else [root]
            names += [each.name for each in folders if each.is_dir() and each.name[:1] != "." and layout_of(each)]
            sequences = [s for each in folders if only is None or each.name in only for s in _any_sequence(each)]
            if sequences:
                break
    _check_known(only or (), names, str(root))
    for name, count in Counter(sequence.name for sequence in sequences).items():
        if count > 1:
            raise FartrackError(f"{root} holds {count} sequences named {name}; rename all but one of them.")
    if not sequences:
        raise FartrackError(
            f"{root} holds no sequences; give a folder of NAME.mp4 beside NAME.txt, or of folders of pictures "
            "with a groundtruth.txt."
        )
    return sequences


def _any_sequence(folder: Path) -> list[Sequence]:
    """The sequence in a folder, if there is one; FartrackError for pictures without ground truth."""
    if folder.name.startswith(".") or not folder.is_dir():
        return []
    if layout := layout_of(folder):
        return [read_sequence(folder, layout)]
    places = {each.pictures_of(folder) for each in LAYOUTS.values()}
    if any(is_picture(path) for place in places if place.is_dir() for path in place.iterdir()):
        raise FartrackError(f"{folder} has pictures but no ground truth groundtruth.txt; add it.")
    return []
