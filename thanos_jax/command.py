"""What the commands have in common."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging
from absl.flags import argparse_flags

from thanos_jax.errors import UserError
from thanos_jax.interruption import Interrupted

_STOPPED = flags.DEFINE_integer(
    "stopped_exit_code",
    0,
    "Exit code of a run that SIGTERM or SIGINT stopped and that saved its state. A scheduler that "
    "starts only failed jobs again needs another than 0.",
    lower_bound=0,
    upper_bound=255,
)


def start(
    main: Callable[[Any], int | None], parser: argparse_flags.ArgumentParser | None = None
) -> None:
    """Parses the flags and calls main(argv); a UserError becomes its message and exit code 1.

    A run that was asked to stop, and did, ends with exit code 0 or that of --stopped_exit_code.

    Args:
      main: of the command; what it returns is the exit code.
      parser: of a command that takes words besides flags; main gets what it parses.
    """
    keep_compiled_programs()

    def checked(argv: Any) -> int | None:
        if parser is None and len(argv) > 1:
            raise app.UsageError(f"expected only flags, got {argv[1:]}")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax tells every file it touches
        return main(argv)

    def parse(argv: list[str]) -> Any:
        return parser.parse_args(argv[1:]) if parser else app.parse_flags_with_usage(argv)

    try:
        app.run(checked, flags_parser=parse)
    except Interrupted as stopped:
        print(stopped, flush=True)
        raise SystemExit(_STOPPED.value) from None
    except UserError as error:
        _leave_others(f"error: {error}")
        raise SystemExit(f"error: {error}") from None
    except Exception:
        _leave_others(traceback.format_exc())
        raise


def _leave_others(message: str) -> None:
    """Of several processes, ends this one at once, with exit code 1.

    An orderly end would wait for the others, and they for what this one no longer does. So they
    miss it, and end too.
    """
    jax = sys.modules.get("jax")
    if jax and jax.distributed.is_initialized() and jax.process_count() > 1:
        print(
            f"{message}\nprocess {jax.process_index()} of {jax.process_count()} ends, after an "
            "error of its own or because another process has ended; see what that one wrote. The "
            "same commands go on from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
        os._exit(1)


def keep_compiled_programs() -> None:
    """Lets jax find what earlier runs compiled on this machine; of no effect once jax is imported.

    In ~/.cache/thanos_jax, or where XDG_CACHE_HOME says. JAX_COMPILATION_CACHE_DIR names another
    folder; JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(os.path.join("~", ".cache"))
    # By machine: a home may be shared, and programs for one kind of CPU may not run on another.
    folder = os.path.join(home, "thanos_jax", platform.node() or "machine")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
