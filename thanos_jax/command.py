"""What the commands have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from absl import app, flags, logging

from thanos_jax.errors import UserError


def start(main: Callable[[Sequence[str]], None]) -> None:
    """Parses the flags and calls main(argv); a UserError becomes its message and exit code 1."""

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
