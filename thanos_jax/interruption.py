"""On SIGTERM or SIGINT, training finishes its step, saves it, and the process exits with code 0.

Schedulers send SIGTERM some seconds before they take a machine away; Ctrl-C sends SIGINT.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Counts the calls of `Watch.asked` in this process; the same in every process of a run.
_CALLS = itertools.count(1)


class Interrupted(BaseException):
    """The run was asked to stop, and did; says how to resume. Not an error, so not an Exception."""


class Watch:
    """Whether this process, or another of the same run, was asked to stop; made by `watch`."""

    def __init__(self, *, several: bool) -> None:
        self._several = several
        self._received = threading.Event()
        self._deferred = False

    @property
    def received(self) -> bool:
        """Whether this process itself got a signal."""
        return self._received.is_set()

    def asked(self) -> bool:
        """Whether to stop here. All processes of a run make the same calls, and agree."""
        if self._several:
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(next(_CALLS))
        return self.received

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only makes `asked` true; outside, it raises Interrupted at once."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.received:  # too late for the last call of `asked`
            self._interrupt()

    def _handle(self, number: int, frame: object) -> None:
        # Runs between two bytecodes of the main thread.
        if not self._deferred and not self._several:
            self._interrupt()

    def _interrupt(self) -> None:
        raise Interrupted("stopped; nothing was lost. The same command resumes from here.")

    def _listen(self, receiver: socket.socket) -> None:
        """Reads the number of each signal; ends when the other side is closed.

        Runs in a thread, because the main thread sees no signal while it compiles or waits for
        devices.
        """
        while number := receiver.recv(1):
            received = signal.Signals(number[0])
            if received not in _SIGNALS:
                continue
            if self.received:
                os._exit(128 + received)
            self._received.set()
            if self._several:
                # jax listens to SIGTERM, and tells the other processes.
                os.kill(os.getpid(), signal.SIGTERM)
            if self._deferred:
                print(
                    f"{received.name}: finishing the step and saving it; a second signal ends the "
                    "process at once",
                    file=sys.stderr,
                    flush=True,
                )


_active: Watch | None = None


@contextlib.contextmanager
def watch() -> Iterator[Watch]:
    """Handles SIGTERM and SIGINT inside the block; earlier handlers are restored afterwards.

    Outside the main thread, where Python delivers no signals, it has no effect. Inside another
    `watch` it returns that one. With several processes, jax itself handles SIGTERM.
    """
    global _active
    import jax

    several = jax.process_count() > 1
    if _active is not None:
        yield _active
        return
    found = Watch(several=several)
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    listener = threading.Thread(target=found._listen, args=(receiver,), daemon=True)
    listener.start()
    numbers = _SIGNALS if not several else (signal.SIGINT,)
    wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, found._handle) for number in numbers}
    _active = found
    try:
        yield found
    finally:
        _active = None
        for number, handler in before.items():
            # None: the handler was not installed from Python, and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(wakeup)
        sender.close()
        listener.join()
        receiver.close()
