"""The faster engine is chosen, remembered, and asked for anew when something changes."""

import json

import pytest

from fartrack.engines.base import choice, open_engine
from fartrack.engines.choice import fastest_engine, memory_file
from fartrack.errors import FartrackError
from fartrack.packages import open_package


@pytest.fixture
def package():
    return open_package("pico")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with two engines, the times that they take, and what was measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    class Machine:
        def __init__(self):
            self.versions = {"onnxruntime": "1", "openvino": "2"}
            self.times = {"onnxruntime": 3.0, "openvino": 2.0}
            self.broken, self.opened, self.clock = (), [], 0.0

        def open(self, package, name, threads):
            if name in self.broken:
                raise FartrackError("broken")
            machine.opened.append((name, threads))
            real = open_engine(package, "onnxruntime", 1)

            class Engine:
                memorise = real.memorise

                def search(self, *shown):
                    machine.clock += machine.times[name]

            return Engine()

    machine = Machine()
    monkeypatch.setattr(choice, "installed", lambda: machine.versions)
    monkeypatch.setattr(choice, "open_engine", machine.open)
    monkeypatch.setattr(choice.time, "perf_counter", lambda: machine.clock)
    return machine


def test_the_faster_engine_is_chosen_and_remembered(machine, package):
    assert fastest_engine(package, 1) == "openvino"
    assert [name for name, _ in machine.opened] == ["onnxruntime", "openvino"]
    machine.times = {"onnxruntime": 1.0, "openvino": 2.0}
    assert fastest_engine(package, 1) == "openvino" and len(machine.opened) == 2  # from the file
    assert fastest_engine(package, 2) == "onnxruntime"  # measured for itself
    machine.versions = {**machine.versions, "openvino": "3"}
    assert fastest_engine(package, 1) == "onnxruntime"
    assert len(json.loads(memory_file().read_text())) == 3
    assert [path.name for path in memory_file().parent.iterdir()] == ["engines.json"]


def test_a_single_engine_is_not_measured(machine, package):
    machine.versions = {"onnxruntime": "1"}
    assert fastest_engine(package) == "onnxruntime"
    assert machine.opened == [] and not memory_file().exists()


def test_an_engine_that_does_not_work_is_passed_over(machine, package):
    machine.broken = ("openvino",)
    assert fastest_engine(package) == "onnxruntime"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": "none"}'])
def test_a_damaged_memory_is_measured_again(machine, package, content):
    memory_file().parent.mkdir()
    memory_file().write_bytes(content)
    assert fastest_engine(package) == "openvino"
    assert fastest_engine(package) == "openvino" and len(machine.opened) == 2


def test_without_a_cache_folder_it_is_measured_each_time(machine, package, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [fastest_engine(package) for _ in range(2)] == ["openvino", "openvino"]
    assert len(machine.opened) == 4


def test_auto_opens_an_engine_that_is_installed(package, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = open_engine(package, "auto", 1)
    names = {"onnxruntime": "OnnxRuntimeEngine", "openvino": "OpenVinoEngine"}
    assert type(engine).__name__ in {names[name] for name in choice.installed()}
