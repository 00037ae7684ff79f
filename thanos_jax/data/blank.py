"""Warning about training images that hardly vary: each of one colour, or all alike."""

from __future__ import annotations

import sys

import numpy as np

from thanos_jax.data.splits import DataError, Split

_LOOKED_AT = 256
# An image or a set that varies by no more than this, of 255 levels, has nothing to learn from.
_LEVELS = 2.0
_SHARE = 0.1
_NAMED = 3


def warn(dataset: str, split: Split) -> None:
    """Warns on stderr if many images of a split are of one colour, or if all are alike.

    At most 256 images, spread over the split, are examined.

    Args:
      dataset: name of the data set, for the message.
      split: the training split, not empty. If an image cannot be read, nothing is reported here.
    """
    numbers = np.unique(np.linspace(0, len(split) - 1, min(_LOOKED_AT, len(split))).astype(int))
    try:
        images = split.read(numbers)["image"].astype(np.float32)
    except DataError:
        return
    remedy = (
        "Is what they show in a transparent channel (data.matte), or in the lower of more than 8"
        " bits?"
    )
    among = float(images.std(axis=0).max()) if len(images) > 1 else np.inf
    within = np.ptp(images, axis=(1, 2)).max(axis=-1)
    constant = np.flatnonzero(within <= _LEVELS)
    if among <= _LEVELS:
        said = f"the training images are all alike, up to {among:.1f} of 255 levels"
    elif len(constant) > _SHARE * len(images):
        said = f"{len(constant)} of {len(images)} training images looked at are of one colour"
    else:
        return
    named = ", ".join(str(name) for name in split.names[numbers[constant]][:_NAMED])
    first = f"; the first: {named}" if named and among > _LEVELS else ""
    print(f"WARNING: {dataset}: {said}{first}. {remedy}", file=sys.stderr, flush=True)
