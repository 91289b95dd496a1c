"""The tests of processes.py, each engine's in an interpreter of its own.

A runtime's threads do not always survive that another runtime's process is forked: OpenVINO and then PyTorch in one
process that forks ended PyTorch's OpenMP threads with a segmentation fault. OpenVINO's own, at times, end with one when
the interpreter takes them down after forks, all tests passed; so the interpreter ends without that.
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
