"""How much the libraries below say."""

from __future__ import annotations

from absl import flags, logging


def quiet() -> None:
    """Leaves only warnings, unless --verbosity was given: Orbax tells every file it touches."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
