"""The field's benchmarks: where each keeps its sequences, and the rules by which it measures.

Layouts are those of the published archives. Splits and frame ranges are facts from the benchmarks' own toolkits and
from the GOT-10k toolkit (``got10k`` 0.1.3), which reads several of them.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from fartrack.datasets.layouts import LAYOUTS, Layout, is_picture, layout_of, path_from, read_text, shown
from fartrack.datasets.sequences import Part, Sequence, check_video, packed_sequences, read_sequence
from fartrack.errors import FartrackError
from fartrack.evaluate.metrics import GOT10K, LASOT, OTB, PLAIN, TRACKINGNET, Rules

T = TypeVar("T")


@dataclass(frozen=True)
class Published:
    """How a benchmark is published.

    Attributes:
        layout: of the folder of a sequence.
        rules: by which it measures.
        count: number of sequences.
        folders: patterns of the sequences' folders; the first that matches any is used.
        lists: files with a sequence name per line; the first that exists is used.
        names: the sequences, if no list comes with them.
        parts: the sequences of each folder that does not hold exactly one with all its frames.
        first_box_only: only the first box of each sequence is published.
        labels_required: every sequence comes with its labels of absence.
        attributes: names of the flags in a file of ``labels``, in their order.
        labels: files of flags or of attribute names, from the sequence's folder or the dataset's; often missing.
    """

    layout: Layout
    rules: Rules
    count: int
    folders: tuple[str, ...] = ("*",)
    lists: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    first_box_only: bool = False
    labels_required: bool = True
    attributes: str = ""
    labels: tuple[str, ...] = ("att/NAME.txt", "attributes/NAME.txt")

    def parts_of(self, folder: Path) -> tuple[Part, ...]:
        """The sequences in a folder."""
        return self.parts.get(folder.name, (Part(folder.name),))


def _pairs(text: str) -> Iterator[tuple[str, list[str]]]:
    """``a:1,2 b:3`` → a with 1 and 2, b with 3."""
    for entry in text.split():
        name, _, values = entry.partition(":")
        yield name, values.split(",")


def _part(name: str, span: str, truth: str | None = None) -> Part:
    """A sequence with the frames of a span such as ``1-253``."""
    first, last = map(int, span.split("-"))
    return Part(name, truth, first, last)


def _names(folders: str, parts: Mapping[str, tuple[Part, ...]]) -> tuple[str, ...]:
    return tuple(part.name for folder in folders.split() for part in parts.get(folder, (Part(folder),)))


SPLITS: dict[str, str] = tomllib.loads(Path(__file__).with_name("splits.toml").read_text())
OTB_PARTS = {name: (_part(name, span),) for name, [span] in _pairs(SPLITS["otb100_ranges"])} | {
    "Human4": (Part("Human4", "groundtruth_rect.2.txt"),),  # its groundtruth_rect.1.txt is empty
    "Jogging": tuple(Part(f"Jogging-{index}", f"groundtruth_rect.{index}.txt") for index in (1, 2)),
    "Skating2": tuple(Part(f"Skating2-{index}", f"groundtruth_rect.{index}.txt") for index in (1, 2)),
}
UAV123_TRUTH = "../../../anno/UAV123"
UAV123_PARTS = {
    folder: tuple(
        _part(f"{folder}_{index}", span, f"{UAV123_TRUTH}/{folder}_{index}.txt") for index, span in enumerate(spans, 1)
    )
    for folder, spans in _pairs(SPLITS["uav123_ranges"])
}

# its toolkit reads `cover` alone; training also reads `absence`
_GOT10K_LAYOUT = replace(LAYOUTS["GOT-10k"], absent=(("cover.label", False),))
_GOT10K = Published(_GOT10K_LAYOUT, GOT10K, 180, ("val/*", "*"), ("val/list.txt", "list.txt"))
_LASOT = Published(
    replace(LAYOUTS["LaSOT"], marks=()),
    LASOT,
    280,
    # the category folder may be missing or one level deeper
    ("*/*", "*", "*/*/*"),
    ("testing_set.txt",),
    tuple(f"{kind}-{number}" for kind, numbers in _pairs(SPLITS["lasot"]) for number in numbers),
    attributes="IV POC DEF MB CM ROT BC VC SV FOC FM OV LR ARC",
)
_NFS = Published(Layout("30/NAME", ("30/NAME.txt",), vatic=True), OTB, 100)  # `lost` is ignored, as the field does

BENCHMARKS: dict[str, Published | None] = {
    "got10k-val": _GOT10K,
    "got10k-test": replace(
        _GOT10K,
        layout=replace(_GOT10K.layout, absent=()),
        folders=("test/*", "*"),
        lists=("test/list.txt", "list.txt"),
        first_box_only=True,
    ),
    "lasot": _LASOT,
    "lasot-ext": replace(_LASOT, count=150, lists=(), names=()),
    "trackingnet-test": Published(
        LAYOUTS["TrackingNet"], TRACKINGNET, 511, ("TEST/frames/*", "frames/*"), first_box_only=True
    ),
    "nfs30": _NFS,
    "nfs240": replace(_NFS, layout=Layout("240/NAME", ("240/NAME.txt",), vatic=True)),
    "uav123": Published(
        Layout(".", (f"{UAV123_TRUTH}/NAME.txt",)),
        OTB,
        123,
        ("data_seq/UAV123/*", "UAV123/data_seq/UAV123/*"),
        names=_names(SPLITS["uav123"], UAV123_PARTS),
        parts=UAV123_PARTS,
        attributes="SV ARC LR FM FOC POC OV BC IV VC CM SOB",
        labels=(f"{UAV123_TRUTH}/att/NAME.txt",),
    ),
    "otb100": Published(
        Layout("img", ("groundtruth_rect.txt",), origin=1),
        OTB,
        100,
        names=_names(SPLITS["otb100"], OTB_PARTS),
        parts=OTB_PARTS,
        attributes="IV OPR SV OCC DEF MB FM IPR OV BC LR",
        labels=("attrs.txt", "NAME.att", "att/NAME.txt", "anno/att/NAME.txt"),
    ),
    "tnl2k": Published(
        Layout("imgs"),
        LASOT,
        700,
        ("*", "*/*"),
        attributes="CM ROT DEF FOC IV OV POC VC SV BC MB ARC LR FM AS TC MS",
        labels=("attributes.txt", "att/NAME_attribute.txt"),
    ),
    "vasttrack": Published(
        LAYOUTS["VastTrack"],
        LASOT,
        3500,
        ("*/*", "*", "*/*/*"),
        ("testing_set.txt",),
        labels_required=False,
        attributes="LR SV FM ARC IV INV DEF ROT BC MB",
    ),
    "dtb70": Published(Layout("img", ("groundtruth_rect.txt",)), OTB, 70),
    "folder": None,
}
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
    runs; no picture is decoded (of each video, the first frame is).

    Args:
        name: one of :data:`BENCHMARKS`.
        folder: where the dataset is.
        only: the sequences to take instead of all; the others may then be missing or broken.

    Raises:
        FartrackError: there is no such benchmark, folder or sequence, or the dataset is incomplete: what was expected,
            what was found, and the first fault.
    """
    if name not in BENCHMARKS:
        raise FartrackError(f"There is no benchmark {name!r}; give one of {', '.join(BENCHMARKS)}.")
    try:
        if not folder.exists():
            raise FartrackError(f"There is no folder {shown(folder)}; give the one that holds {name}.")
        if not folder.is_dir():
            raise FartrackError(f"{shown(folder)} is not a folder; give the one that holds {name}.")
        next(folder.iterdir(), None)  # `glob` hides that a folder may not be read
        published = BENCHMARKS[name]
        if published is None:
            return Benchmark(name, _any_sequences(folder, only), PLAIN)
        return Benchmark(name, _published_sequences(name, published, folder, only), published.rules)
    except OSError as error:
        at = shown(Path(error.filename or folder))
        raise FartrackError(f"{at} cannot be read: {error.strerror}; check its permissions.") from None


def from_starts(benchmark: Benchmark, starts: Iterable[int]) -> Benchmark:
    """The benchmark with each sequence once from each of these frames on which its target is visible.

    Raises:
        FartrackError: a frame is negative or no sequence has it, or only the first boxes are published.
    """
    starts = sorted(set(starts))
    if not starts or starts[0] < 0:
        raise FartrackError(f"The starts are {starts}; list frames, counted from 0, such as 0,5,10.")
    if any(len(sequence.boxes) == 1 for sequence in benchmark.sequences):
        raise FartrackError(f"{benchmark.name} publishes only the first boxes; track it from the first frame alone.")
    parts = [part for sequence in benchmark.sequences for start in starts if (part := sequence.since(start))]
    if not parts:
        raise FartrackError(f"No sequence shows its target on the frames {starts}; give others.")
    return replace(benchmark, sequences=parts)


def progress(items: Iterable[T], what: str) -> Iterable[T]:
    """The items, with a progress bar on a terminal."""
    console = Console(stderr=True)
    return track(items, what, transient=True, console=console, disable=not console.is_terminal)


def _published_sequences(name: str, published: Published, root: Path, only: Collection[str] | None) -> list[Sequence]:
    found: dict[str, tuple[Path, Part]] = {}
    for folder in _folders(root, published):
        for part in published.parts_of(folder):
            if part.name in found:
                first = shown(found[part.name][0])
                raise FartrackError(f"{first} and {shown(folder)} are both named {part.name}; remove one of them.")
            found[part.name] = folder, part
    listed = _listed(root, published) or published.names
    wanted, expected = listed or sorted(found), len(listed) or published.count
    if only is not None:
        _check_known(only, wanted, f"{name} in {shown(root)}")
        wanted, expected = [each for each in wanted if each in only], len(only)
    sequences, faults = [], []
    for each in progress(wanted, f"opening {name}"):
        try:
            if each not in found:
                raise FartrackError(f"the sequence {each} is missing; download it.")
            folder, part = found[each]
            sequence = read_sequence(
                folder,
                published.layout,
                part,
                first_box_only=published.first_box_only,
                labels_required=published.labels_required,
                attributes=_attributes(root, folder, part.name, published),
            )
            sequences.append(sequence)
        except FartrackError as error:
            faults.append(str(error))
    if len(wanted) != expected:
        faults.append(f"there are folders of {len(wanted)} sequences, not of {expected}; download all of it.")
    if faults:
        usable = f"{len(sequences)} of {expected} sequences can be used"
        raise FartrackError(f"{name} in {shown(root)} is incomplete, {usable}: {faults[0]}")
    return sequences


def _folders(root: Path, published: Published) -> list[Path]:
    """The folders of sequences, complete or not, by the first pattern that matches any."""
    layout = published.layout
    for pattern in published.folders:
        folders = [
            folder
            for folder in sorted(root.glob(pattern))
            if not folder.name.startswith((".", "__MACOSX"))
            and folder.is_dir()
            and (layout.pictures_of(folder).is_dir() or any(path_from(folder, each).is_file() for each in layout.truth))
        ]
        if folders:
            return folders
    return []


def _listed(root: Path, published: Published) -> tuple[str, ...]:
    for path in published.lists:
        if (root / path).is_file():
            names = [line.strip() for line in read_text(root / path).splitlines() if line.strip()]
            if not names:
                raise FartrackError(f"{shown(root / path)} names no sequence; download it again.")
            return tuple(dict.fromkeys(names))
    return ()


def _check_known(only: Collection[str], names: Collection[str], where: str) -> None:
    for unknown in sorted(set(only) - set(names)):
        known = f"it has {len(names)} others, such as {min(names)}" if names else "it has none; check the folder"
        raise FartrackError(f"{where} has no sequence {unknown}; {known}.")


def _attributes(root: Path, folder: Path, name: str, published: Published) -> frozenset[str]:
    """From the first file of attributes that exists: its flags, or the names in it."""
    known = published.attributes.split()
    for pattern in published.labels:
        label = pattern.replace("NAME", name)
        path = next((path for path in (path_from(folder, label), root / label) if path.is_file()), None)
        if not known or path is None:
            continue
        words = read_text(path).replace(",", " ").split()
        if words and set(words) <= {"0", "1"}:
            if len(words) != len(known):
                raise FartrackError(f"{shown(path)} has {len(words)} flags, not {len(known)}; download it again.")
            return frozenset(each for each, flag in zip(known, words, strict=True) if flag == "1")
        for word in words:
            if word not in known:
                raise FartrackError(f"{shown(path)} names an attribute {word[:20]!r}; use {', '.join(known)}.")
        return frozenset(words)
    return frozenset()


def _any_sequences(root: Path, only: Collection[str] | None) -> list[Sequence]:
    """Videos beside their texts; or else folders in any known layout: this one, its subfolders, or theirs."""
    if any(root.glob("*.mp4")):
        sequences = [each for each in packed_sequences(root) if only is None or each.name in only]
        for sequence in progress(sequences, "opening videos"):
            check_video(sequence)
    else:
        sequences = []
        for pattern in (".", "*", "*/*"):
            folders = [root] if pattern == "." else [path for path in sorted(root.glob(pattern)) if path.is_dir()]
            for folder in folders:
                if not folder.name.startswith(".") and (only is None or folder.name in only):
                    sequences += _any_sequence(folder)
            if sequences:
                break
    names = Counter(sequence.name for sequence in sequences)
    _check_known(only or (), names, shown(root))
    for name in [name for name, count in names.items() if count > 1]:
        raise FartrackError(f"{shown(root)} holds {names[name]} sequences named {name}; rename all but one of them.")
    if not sequences:
        raise FartrackError(
            f"{shown(root)} holds no sequences; give a folder of NAME.mp4 beside NAME.txt, or of folders of pictures "
            "with a groundtruth.txt."
        )
    return sequences


def _any_sequence(folder: Path) -> list[Sequence]:
    """The sequence in a folder, if there is one; FartrackError for pictures without ground truth."""
    if layout := layout_of(folder):
        return [read_sequence(folder, layout)]
    places = {each.pictures_of(folder) for each in LAYOUTS.values()}
    if any(is_picture(path) for place in places if place.is_dir() for path in place.iterdir()):
        raise FartrackError(f"{shown(folder)} has pictures but no ground truth groundtruth.txt; add it.")
    return []
