"""Targets of options and files: what is meant, or one sentence."""

import json

import pytest

from fartrack.errors import FartrackError
from fartrack.targets import Anchor, check_targets, parse_targets


def given(targets):
    return [(t.id, t.name, t.label, [(a.frame, a.box, a.end) for a in t.anchors]) for t in targets]


def test_a_single_box_has_no_name():
    assert given(parse_targets(["1,2,3,4"], 7)) == [(1, "", "object", [(7, (1, 2, 3, 4), None)])]
    assert given(parse_targets(["@9=1,2,3,4"], 7)) == [(1, "", "object", [(9, (1, 2, 3, 4), None)])]
    assert parse_targets(["1,2,3,4"], 0)[0].title == ""


def test_boxes_of_one_name_are_one_target_and_those_without_are_each_one():
    boxes = ["cup@9=1,2,3,4", "5,6,7,8", "cup=-1.5,2,3,4", "2@3=1 1 1 1", "@4=9,9,9,9"]
    found = parse_targets(boxes, 1)
    assert given(found) == [
        (1, "cup", "cup", [(1, (-1.5, 2, 3, 4), None), (9, (1, 2, 3, 4), None)]),
        (2, "3", "object", [(1, (5, 6, 7, 8), None)]),  # 2 is the name of another
        (3, "2", "2", [(3, (1, 1, 1, 1), None)]),
        (4, "4", "object", [(4, (9, 9, 9, 9), None)]),
    ]
    assert [target.title for target in found] == ["1 cup", "2 3", "3 2", "4"]


CSV = """name, frame, x, y, w, h, end, label
cup,3,1,2,3,4,8,
cup,20,1,2,3,5,,
he,,1,2,3,6,,person
she,5.0,1,2,3,7,,person
"""
ROWS = [
    {"name": "cup", "frame": 3, "x": 1, "y": 2, "w": 3, "h": 4, "end": 8},
    {"name": "cup", "frame": 20, "x": 1, "y": 2, "w": 3, "h": 5},
    {"name": "he", "x": 1, "y": 2, "w": 3, "h": 6, "label": "person"},
    {"name": "she", "frame": 5, "x": 1, "y": 2, "w": 3, "h": 7, "label": "person", "end": None},
]


@pytest.mark.parametrize(
    ("name", "text"), [("a.csv", CSV), ("a.txt", "\ufeff" + CSV.replace("\n", "\r\n")), ("a.JSON", json.dumps(ROWS))]
)
def test_files(tmp_path, name, text):
    (tmp_path / name).write_text(text, "utf-8", newline="")
    assert given(parse_targets([], 2, tmp_path / name)) == [
        (1, "cup", "cup", [(3, (1, 2, 3, 4), 8), (20, (1, 2, 3, 5), None)]),
        (2, "he", "person", [(2, (1, 2, 3, 6), None)]),
        (3, "she", "person", [(5, (1, 2, 3, 7), None)]),
    ]


def test_a_file_and_options_go_together(tmp_path):
    (tmp_path / "a.csv").write_text("name,x,y,w,h\ncup,1,2,3,4\n")
    found = parse_targets(["cup@5=1,1,1,1", "dog=2,2,2,2"], 0, tmp_path / "a.csv")
    assert [(t.name, [a.frame for a in t.anchors]) for t in found] == [("cup", [0, 5]), ("dog", [0])]


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        (["cup=1,2,3"], "'1,2,3' is not four numbers"),
        (["=1,2,3,4"], "has no name before the ="),
        (["cup@x=1,2,3,4"], "the frame is 'x'; it must be a whole number from 0"),
        (["cup@-1=1,2,3,4"], "the frame is '-1'"),
        (["cup@=1,2,3,4"], "the frame is ''"),
        (["cup=1,2,3,4", "cup=1,2,3,4"], "cup has two boxes on frame 0"),
        (["cup@0=1,2,3,4", "cup=5,2,3,4"], "cup has two boxes on frame 0"),
        (["a\nb=1,2,3,4"], "not printable"),
        (["a" * 200 + "=1,2,3,4"], "too long"),
    ],
)
def test_bad_options(boxes, words):
    with pytest.raises(FartrackError, match=words) as caught:
        parse_targets(boxes, 0)
    assert str(caught.value).endswith(".") and len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "", "holds no targets"),
        ("a.csv", "x,y,w,h\n", "holds no targets"),
        ("a.csv", "x,y,w\n1,2,3\n", r"a\.csv, target 1 lacks h"),
        ("a.csv", "x,y,w,h\n1,2,3,4\n5,6,,8\n", "target 2 lacks w"),
        ("a.csv", "x,y,w,h\n1,2,3,4,5\n", "'extra value' is no column"),
        ("a.csv", "x;y;w;h\n1;2;3;4\n", "'x;y;w;h' is no column; those are name, frame, end, label, x, y, w, h"),
        ("a.csv", "x,y,w,h,color\n1,2,3,4,red\n", "'color' is no column"),
        ("a.csv", "x,y,w,h\n1,b,3,4\n", "target 1: The box '1,b,3,4' is not four numbers"),
        ("a.csv", "frame,x,y,w,h\n1.5,1,2,3,4\n", "target 1: the frame is '1.5'"),
        ("a.csv", "frame,end,x,y,w,h\n9,8,1,2,3,4\n", "target 1 ends on frame 8, before its frame 9"),
        ("a.csv", "end,x,y,w,h\nnan,1,2,3,4\n", "the end is 'nan'"),
        ("a.csv", "name,label,frame,x,y,w,h\na,b,0,1,2,3,4\na,c,1,1,2,3,4\n", "a has the labels b and c"),
        ("a.csv", "name,x,y,w,h\na,1,2,3,4\na,1,2,3,4\n", "a has two boxes on frame 0"),
        ("a.csv", b"\xff\xfe\x00", "is no text"),
        ("a.json", "{", "is no text of comma-separated values or JSON"),
        ("a.json", "[" * 100_000, "is no text"),
        ("a.json", "{}", "holds no targets"),
        ("a.json", "[1]", "holds no targets"),
        ("a.json", "[]", "holds no targets"),
        ("a.json", '[{"x": [1], "y": 2, "w": 3, "h": 4}]', "not four numbers"),
        ("a.json", '[{"x": 1, "y": 2, "w": 3, "h": 4, "frame": [1]}]', "the frame is"),
        ("missing.csv", None, "cannot be read"),
    ],
)
def test_bad_files(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FartrackError, match=words) as caught:
        parse_targets([], 0, tmp_path / name)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_boxes_are_checked_for_the_frame():
    one, two = parse_targets(["1,2,3,4"], 0), parse_targets(["cup=1,2,3,4", "cup@9=700,2,3,4"], 0)
    check_targets([*one], 640, 360)
    with pytest.raises(FartrackError, match=r"^cup: The box 700,2,3,4 lies outside the 640×360 frame"):
        check_targets(two, 640, 360)
    one[0].anchors[:] = [Anchor(0, (1, 2, 0, 4))]
    with pytest.raises(FartrackError, match=r"^The box 1,2,0,4 has no area"):
        check_targets(one, 640, 360)
