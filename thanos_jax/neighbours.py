"""Finds the images most similar to query images, by the model of a run.

    python -m thanos_jax.neighbours --workdir=DIR --query IMAGE ... --among=FOLDER|EMBEDDINGS

Prints names and similarities (cosines of embeddings) and writes DIR/neighbours.html, a page with
the pictures. The search is exact. EMBEDDINGS is the output of python -m thanos_jax.embed for the
same model: a .npz or .parquet file, or a folder of shards.
"""

from __future__ import annotations

import argparse
import os
import pathlib

from thanos_jax import command

# argparse, because its options take several words, which a shell makes of a pattern; absl's do not.
PARSER = command.Parser(
    prog="python -m thanos_jax.neighbours",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
)
PARSER.add_argument("--workdir", required=True, metavar="DIR", help="folder of a run")
PARSER.add_argument(
    "--query", required=True, nargs="+", action="extend", metavar="IMAGE", help="image files"
)
PARSER.add_argument(
    "--among", required=True, help="a folder of images, a CSV of their names, or embeddings"
)
PARSER.add_argument("--k", type=int, default=10, help="number of neighbours (10)")
PARSER.add_argument("--out", help="the page; by default DIR/neighbours.html")
PARSER.add_argument("--part", help="training of the run; by default the last")
PARSER.add_argument("--step", type=int, help="step of the checkpoint; by default the reported one")
PARSER.add_argument(
    "--on_damaged", choices=("stop", "skip"), default="stop", help="if an image cannot be read"
)


def main(asked: argparse.Namespace) -> None:
    """Prints the neighbours of each query and writes the page."""
    if asked.k < 1:
        PARSER.error(f"--k: expected at least 1, got {asked.k}")
    from thanos_jax.trained import embeddings, neighbours  # after --help, because jax is slow
    from thanos_jax.trained.loading import load

    model = load(asked.workdir, step=asked.step, part=asked.part)
    settings = embeddings.Settings(on_damaged=asked.on_damaged)
    found = neighbours.neighbours(model, asked.query, asked.among, asked.k, settings=settings)
    for query, near in zip(asked.query, found, strict=True):
        print(query)
        for one in near:
            print(f"  {one.similarity:.4f}  {one.name}")
    out = pathlib.Path(asked.out or os.path.join(asked.workdir, "neighbours.html")).expanduser()
    neighbours.write_sheet(out, asked.query, found)
    print(f"pictures: {out}")


if __name__ == "__main__":
    command.start(main, PARSER)
