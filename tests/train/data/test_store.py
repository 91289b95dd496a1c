"""What is written into a store comes out again, and half a store is no store."""

import numpy as np
import pytest

pytest.importorskip("torch")

from safetensors.numpy import save_file

from fartrack.datasets.pictures import Picture, Target
from fartrack.errors import FartrackError
from fartrack.train.data.store import Store, write_store


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def pictures(rng):
    """Two stills of other sizes, one of them with a masked, a plain and an emptily masked target, and two clips
    whose frames are mixed."""

    def image(height, width):
        return rng.integers(0, 256, (height, width, 3), np.uint8)

    mask = np.zeros((30, 41), bool)
    mask[5:12, 7:20] = rng.random((7, 13)) < 0.5
    mask[5, 7] = mask[11, 19] = True
    targets = (
        Target((7.0, 5.0, 13.0, 7.0), mask),
        Target((1.5, 2.25, 10.0, 20.0)),
        Target((0.0, 0.0, 5.0, 5.0), np.zeros((30, 41), bool)),
    )
    return [
        Picture(image(30, 41), targets),
        Picture(image(8, 9), (Target((1.0, 1.0, 4.0, 4.0)),), sequence="a"),
        Picture(image(17, 5), ()),
        Picture(image(8, 9), (Target((2.0, 2.0, 5.0, 5.0)),), sequence="b"),
        Picture(image(8, 9), (), sequence="a"),
        Picture(image(8, 9), (Target((3.0, 1.0, 4.0, 4.0), np.ones((8, 9), bool)),), sequence="a"),
    ]


def test_everything_comes_out_again(pictures, tmp_path):
    write_store(tmp_path / "store", iter(pictures))
    store = Store.open(tmp_path / "store")
    assert len(store.sizes) == len(pictures)
    for index, picture in enumerate(pictures):
        np.testing.assert_array_equal(store.image(index), picture.image)
        own = range(store.first[index], store.first[index + 1])
        assert (store.owner[list(own)] == index).all()
        np.testing.assert_array_equal(store.boxes[list(own)], np.reshape([t.box for t in picture.targets], (-1, 4)))
        for target, number in zip(picture.targets, own, strict=True):
            found = store.cutout(number)
            if target.mask is None or not target.mask.any():
                assert found is None
                continue
            x, y, part = found
            whole = np.zeros_like(target.mask)
            whole[y : y + part.shape[0], x : x + part.shape[1]] = part
            np.testing.assert_array_equal(whole, target.mask)
            for edge in (part[0], part[-1], part[:, 0], part[:, -1]):
                assert edge.any()  # no margin is kept
    assert store.sequence.tolist() == [-1, 0, -1, 1, 0, 0]


def test_sequences_are_their_targets_in_order(pictures, tmp_path):
    write_store(tmp_path, pictures)
    found = Store.open(tmp_path).sequences()
    assert [targets.tolist() for targets in found] == [[3, 5], [4]]  # the frame of "a" without one is passed over
    write_store(tmp_path, [pictures[0], pictures[2]])
    assert Store.open(tmp_path).sequences() == []


def test_the_pixels_are_mapped_and_not_loaded(pictures, tmp_path):
    write_store(tmp_path, pictures)
    store = Store.open(tmp_path)
    assert isinstance(store.pixels, np.memmap)
    assert np.shares_memory(store.image(0), store.pixels)
    with pytest.raises(ValueError, match="read-only"):
        store.image(0)[0, 0] = 0


def test_a_store_without_pictures_or_masks(tmp_path, rng):
    write_store(tmp_path / "empty", [])
    assert Store.open(tmp_path / "empty").boxes.shape == (0, 4)
    image = rng.integers(0, 256, (8, 8, 3), np.uint8)
    write_store(tmp_path / "bare", [Picture(image, ())])
    np.testing.assert_array_equal(Store.open(tmp_path / "bare").image(0), image)


def test_views_are_written_as_they_look(tmp_path, rng):
    image = rng.integers(0, 256, (20, 10, 3), np.uint8)[::2, :, ::-1]
    write_store(tmp_path, [Picture(image, ())])
    np.testing.assert_array_equal(Store.open(tmp_path).image(0), image)


def test_a_writer_that_fails_leaves_no_store(pictures, tmp_path):
    def failing():
        yield pictures[0]
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_store(tmp_path, failing())
    with pytest.raises(FartrackError, match="holds no prepared data"):
        Store.open(tmp_path)
    assert not list(tmp_path.iterdir())
    write_store(tmp_path, pictures[3:])
    with pytest.raises(RuntimeError, match="disk"):
        write_store(tmp_path, failing())
    assert len(Store.open(tmp_path).sizes) == 3  # the old one stays


def test_a_new_store_replaces_the_old(pictures, tmp_path):
    write_store(tmp_path, pictures)
    write_store(tmp_path, pictures[3:])
    assert len(Store.open(tmp_path).sizes) == 3


@pytest.mark.parametrize("damage", ["index", "foreign index", "pixels", "masks", "folder"])
def test_no_store(pictures, tmp_path, damage):
    folder = tmp_path / "store"
    write_store(folder, pictures)
    match damage:
        case "index":
            (folder / "index.safetensors").write_bytes(b"nonsense")
        case "foreign index":
            save_file({"weights": np.zeros(3)}, folder / "index.safetensors")
        case "folder":
            folder = tmp_path / "elsewhere"
        case _:
            (folder / f"{damage}.bin").unlink()
    with pytest.raises(FartrackError, match=rf"{folder.name} holds no prepared data"):
        Store.open(folder)


@pytest.mark.parametrize("name", ["pixels", "masks"])
def test_a_store_cut_short_is_named(pictures, tmp_path, name):
    write_store(tmp_path, pictures)
    path = tmp_path / f"{name}.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FartrackError, match=rf"{name}\.bin is cut short"):
        Store.open(tmp_path)
