"""The tests of processes.py, each engine's in an interpreter of its own.

A runtime's threads do not survive that another runtime's process is forked, and what waits for them in the child waits
for ever. So the interpreter also ends without taking anything down.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
def test_in_other_processes(engine):
    pytest.importorskip(engine)
    script = "import os, sys, pytest; code = pytest.main(sys.argv[1:]); sys.stdout.flush(); os._exit(code)"
    command = [sys.executable, "-c", script, "-p", "no:cacheprovider", str(Path(__file__).with_name("processes.py"))]
    done = subprocess.run(command, env={**os.environ, "ENGINE": engine}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
