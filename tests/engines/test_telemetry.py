"""Nothing is sent home: no runtime that an engine imports looks up a host or leaves a file in the home folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys, time, numpy, fartrack
tracker, frame = fartrack.load(engine=sys.argv[1], threads=1), numpy.zeros((90, 120, 3), numpy.uint8)
tracker.init(frame, (30, 30, 20, 20))
tracker.update(frame)
time.sleep(1)  # what is sent is sent by a thread
"""


@pytest.fixture
def traced(tmp_path):
    """A function that runs a script in a fresh interpreter with a fresh home: the files left there, and the sockets
    that were opened for another machine."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed, which shows what a process does")

    def run(script, *arguments, **environment):
        home, log = tmp_path / "home", tmp_path / "calls"
        home.mkdir()
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        command = ["strace", "-f", "-e", "trace=network,openat", "-o", log, sys.executable, "-c", script, *arguments]
        done = subprocess.run(
            command, env={**kept, "HOME": str(home), **environment}, capture_output=True, text=True, timeout=120
        )
        if "ptrace" in done.stderr:
            pytest.skip("this system does not let strace look at a process")
        assert done.returncode == 0, done.stderr
        calls = log.read_text(errors="replace")
        sockets = [
            line for line in calls.splitlines() if re.search(r"socket\(AF_(INET|NETLINK)|nscd|resolv\.conf", line)
        ]
        return [path for path in home.rglob("*") if path.is_file()], sockets

    return run


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
def test_tracking_tells_nobody(traced, engine):
    pytest.importorskip(engine)
    assert traced(SCRIPT, engine) == ([], [])


def test_what_a_user_sets_stays():
    script = "import os, fartrack.engines.onnxruntime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for chosen in ("0", "1"):
        environment = {**os.environ, "ORT_DISABLE_TELEMETRY": chosen}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.stdout == f"{chosen}\n", done.stderr


def test_the_library_is_imported_in_one_place():
    """Every other import of it could be the first one, before telemetry is switched off."""
    imports = re.compile(r"^(import|from) (onnxruntime|openvino)\b", re.MULTILINE)
    files = (path for folder in ("src", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
    found = {path.name for path in files if imports.search(path.read_text())}
    assert found == {"onnxruntime.py", "openvino.py"}
