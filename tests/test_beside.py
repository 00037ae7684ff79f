"""A function beside others: its result, its error, and a process that does not wait for it."""

import subprocess
import sys
import threading

import pytest

from thanos_jax.beside import beside


def test_results_and_errors_come_where_they_are_asked_for():
    other = beside(threading.current_thread)
    assert other() is not threading.main_thread()

    def fails():
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        beside(fails)()


def test_a_process_that_ends_does_not_wait():
    program = "import time; from thanos_jax.beside import beside; beside(lambda: time.sleep(60))"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
