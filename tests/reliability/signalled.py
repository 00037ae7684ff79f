"""The command, in a process that sends itself SIGTERM while it takes the step named in STOP_AT.

STOP_IN is the name of the training whose step it is, "" by default: the run's own.
"""

import os
import runpy
import signal
import time

from thanos_jax.train import loop

make = loop.make_advance


def signalled(stage, **keywords):
    advance, longest = make(stage, **keywords)
    if stage.name != os.environ.get("STOP_IN", ""):
        return advance, longest

    def checked(state, begin, end):
        result = advance(state, begin, end)
        if begin < int(os.environ["STOP_AT"]) <= end:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(3)  # jax looks for the signal once a second
        return result

    return checked, longest


if __name__ == "__main__":
    loop.make_advance = signalled
    runpy.run_module("thanos_jax.main", run_name="__main__", alter_sys=True)
