"""Images as HTML cards: a picture, words, a note and the name of the image."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from PIL import Image

from thanos_jax.report import sprite

# Longer side of a picture, in pixels: the largest size stored, and the size shown.
_SIDE = 96
# Up to this side, pictures are compressed without loss: artefacts would show, and a page has few
# cards. The thumbnails of a map are many, and are lossless up to half this side.
_LOSSLESS = 32


class Card(NamedTuple):
    """The words shown with an image.

    Attributes:
      name: its file, or its split and number.
      words: one word, or several to be shown with arrows between, as given and suggested label.
      note: a number with its name, or "".
      marked: whether the card stands out.
    """

    name: str
    words: tuple[str, ...]
    note: str = ""
    marked: bool = False


def html(images: np.ndarray, cards: Sequence[Card]) -> str:
    """Returns cards as an HTML list with embedded pictures.

    Args:
      images: uint8 [k, h, w, 1 or 3]; images larger than 96 pixels are shrunk.
      cards: k cards, in the same order.

    Raises:
      ValueError: the numbers of cards and images differ.
    """
    if len(images) != len(cards):
        raise ValueError(f"cards: expected {len(images)}, one for each image, got {len(cards)}")
    small = sprite.shrunk(images, _SIDE)
    entries = (_entry(image, card) for image, card in zip(small, cards, strict=True))
    return f'<ul class="shots">{"".join(entries)}</ul>'


def _entry(image: np.ndarray, card: Card) -> str:
    height, width = image.shape[:2]
    factor = _SIDE / max(height, width)
    shown = f'width="{round(width * factor)}" height="{round(height * factor)}"'
    look = ' class="pixels"' if factor > 1.5 else ""
    words = " → ".join(f"<bdi>{escape(word)}</bdi>" for word in card.words)
    lines = [f"<b>{words}</b>"] if words else []
    lines += [f"<span>{escape(card.note)}</span>"] if card.note else []
    lines.append(f"<span><bdi>{escape(card.name)}</bdi></span>")
    return (
        f"<li{' class=marked' if card.marked else ''}>"
        f'<img{look} {shown} alt="{escape(card.name)}" src="data:image/webp;base64,'
        f'{_webp(image)}">{"".join(lines)}</li>'
    )


def _webp(image: np.ndarray) -> str:
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert("RGB")
    buffer = io.BytesIO()
    lossless = max(picture.size) <= _LOSSLESS
    picture.save(buffer, "WEBP", quality=80, lossless=lossless)
    return base64.b64encode(buffer.getvalue()).decode()
