"""Processes that work for this one end with it, or with the context that they were started in."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from fartrack.processes import process_pool


def test_each_process_begins_as_asked(tmp_path):
    with process_pool(1, os.chdir, tmp_path) as pool:
        assert pool.submit(os.getcwd).result() == str(tmp_path)
        assert pool.submit(signal.getsignal, signal.SIGINT).result() is signal.SIG_IGN
    assert not multiprocessing.active_children()


def test_an_error_ends_what_is_under_way():
    with pytest.raises(ZeroDivisionError), process_pool(1) as pool:
        future = pool.submit(time.sleep, 3600)
        while not future.running():
            time.sleep(0.01)
        raise ZeroDivisionError
    assert future.done() and not multiprocessing.active_children()


SCRIPT = """
import os, signal, time
from fartrack.processes import process_pool

if __name__ == "__main__":
    with process_pool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 3600)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_process_ends_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    # the child has its output too, so this returns once neither is there any more
    done = subprocess.run([sys.executable, str(tmp_path / "script.py")], stdout=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL and int(done.stdout)
