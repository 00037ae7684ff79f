"""What the commands have in common."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from thanos_jax.errors import UserError


def start(main: Callable[[Sequence[str]], None]) -> None:
    """Parses the flags and calls main(argv); a UserError becomes its message and exit code 1."""
    keep_compiled_programs()

    def checked(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"expected only flags, got {argv[1:]}")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax tells every file it touches
        main(argv)

    try:
        app.run(checked)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


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
