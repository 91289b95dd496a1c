from pathlib import Path

import pytest

from fartrack.files import replacing, write_whole


def test_a_text_or_bytes_replace_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "größer")
    assert path.read_bytes() == "größer".encode()
    write_whole(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_cut_off_while_it_is_written_never_has_its_name(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_whole(path, "1,2,3,4")

    def cut_off(path, content, write=Path.write_bytes):
        write(path, content[:3])
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_bytes", cut_off)
    with pytest.raises(OSError, match="full"):
        write_whole(path, "5,6,7,8")
    assert path.read_text() == "1,2,3,4"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_at_the_path_stays_until_the_end(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with replacing(path) as part:
        part.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
