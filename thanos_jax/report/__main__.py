"""Makes the report of a run again, or compares runs on one page.

    python -m thanos_jax.report DIR [DIR ...] --out=FILE.html [--picture=FILE.png]

DIR is the folder of a finished run. Its data and checkpoints are not needed: the folder keeps the
content of the report. For one run, FILE.html is its report.html. For several runs, it shows their
maps, linked and at one scale, and the numbers and config keys that differ.
"""

from __future__ import annotations

import argparse
import os
import pathlib

from thanos_jax import command

PARSER = command.Parser(
    prog="python -m thanos_jax.report",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
)
PARSER.add_argument("dir", metavar="DIR", nargs="+", type=pathlib.Path)
PARSER.add_argument("--out", metavar="FILE.html", type=pathlib.Path, required=True)
PARSER.add_argument(
    "--picture", metavar="FILE.png", type=pathlib.Path, help="save the maps of several DIR as PNG"
)


def main(asked: argparse.Namespace) -> int:
    """Writes the page and prints where it is; returns the exit code."""
    if asked.picture and len(asked.dir) < 2:
        PARSER.error("--picture: expected several DIR, got one")
    from thanos_jax import workdir  # after --help, because imports are slow
    from thanos_jax.report import folder, html, side_by_side

    runs = [folder.read(one) for one in asked.dir]
    with workdir.writing(asked.out.parent):
        if len(runs) == 1:
            html.write(asked.out, **runs[0]._asdict())
        else:
            titled = dict(zip(side_by_side.titles(asked.dir, runs), runs, strict=True))
            side_by_side.write(asked.out, titled)
            if asked.picture:
                side_by_side.save_figure(asked.picture, titled)
    print(asked.out)
    return 0


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"  # other devices may be busy with a training
    command.start(main, PARSER)
