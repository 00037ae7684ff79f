"""Command that prints the schema: python -m thanos_jax.config.

It prints the default, the meaning and the accepted values of every key.
"""

from __future__ import annotations

from collections.abc import Sequence

from thanos_jax import command, config


def main(argv: Sequence[str]) -> None:
    """Prints two lines per key: its default, and its meaning with the accepted values."""
    for key, field in config.FIELDS.items():
        expected = f" ({field.expected})" if field.expected else ""
        print(f"{key} = {field.default!r}\n    {field.meaning}{expected}")


if __name__ == "__main__":
    command.start(main)
