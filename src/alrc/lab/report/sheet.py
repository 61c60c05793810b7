"""The worst suspects as one HTML file that needs no other: each as its user shows it."""

import base64
import html
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alrc.lab.engine.files import written_whole
from alrc.suspects import Suspect

__all__ = ["write_sheet"]

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.4 system-ui, sans-serif; margin: 1rem; }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
figure { margin: 0; padding: .5rem; border: 1px solid #8886; border-radius: .3rem; }
figure { overflow-wrap: anywhere; }
img { width: 100%; max-height: 20rem; object-fit: contain; }
img.small { image-rendering: pixelated; min-height: 8rem; }
pre { white-space: pre-wrap; max-height: 20rem; overflow: auto; margin: 0; }
figcaption { font-size: .85rem; }
.failed { color: #c22; }
"""
SMALL = 64  # pixels: enlarged, smaller images keep their pixels


def write_sheet(
    path: Path, title: str, suspects: Sequence[Suspect], show: Callable[[str], Any]
) -> None:
    """Writes a sheet with what ``show`` returns for the key of each suspect.

    Args:
        path: The HTML file; it appears whole or not at all.
        title: Stands above them.
        suspects: In the order in which they are to stand.
        show: Given a key, returns text, an array or tensor of shape (H, W), (H, W, C) or
            (C, H, W) with 1, 3 or 4 channels C, a PIL image, a matplotlib figure, or a Path of an
            image. Where it fails, the sheet says how.

    Raises:
        ValueError: If ``show`` fails for every one of them.
    """
    figures, failures = [], []
    for place, suspect in enumerate(suspects, 1):
        try:
            seen = _seen(show(suspect.key))
        except Exception as error:  # of the user's own code, for one example of many
            failures.append(f"{type(error).__name__}: {error}")
            seen = f'<pre class="failed">{html.escape(failures[-1])}</pre>'
        figures.append(
            f"<figure>{seen}<figcaption>{place}. <b>{html.escape(suspect.key)}</b><br>"
            f"{html.escape(_caption(suspect))}</figcaption></figure>"
        )
    if figures and len(failures) == len(figures):
        raise ValueError(
            "--show must return each example as text, an image, a figure or the Path of an image; "
            f"none of {len(figures)} could be shown, the first with {failures[0]}. Try the "
            f"function with the key {suspects[0].key!r}, which is a string."
        )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Suspects</title>'
        f"<style>{STYLE}</style></head><body><h1>Suspects</h1><p>{html.escape(title)}</p><main>\n"
        + "\n".join(figures)
        + "\n</main></body></html>\n"
    )
    with written_whole(path) as part:
        part.write_text(page, encoding="utf-8")


def _caption(suspect: Suspect) -> str:
    lost = f", not finite {suspect.nonfinite}" if suspect.nonfinite else ""
    return f"limited {suspect.limited} of {suspect.visits}{lost}, factor {suspect.factor:.3g}"


def _seen(example: Any) -> str:
    """An example as HTML."""
    if isinstance(example, str):
        return f"<pre>{html.escape(example)}</pre>"
    image: Image.Image
    if hasattr(example, "savefig"):  # a matplotlib figure
        file = io.BytesIO()
        example.savefig(file, format="png", bbox_inches="tight")
        image = Image.open(file)
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.close(example)  # else it would keep them all
    elif isinstance(example, Path):
        image = Image.open(example)
    else:
        image = example if isinstance(example, Image.Image) else _image(example)
    file = io.BytesIO()
    image.convert("RGBA" if "A" in image.getbands() else "RGB").save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    small = ' class="small"' if max(image.size) < SMALL else ""
    return f'<img{small} alt="" src="data:image/png;base64,{data}">'


def _image(example: Any) -> Image.Image:
    """Of an array or tensor."""
    if hasattr(example, "detach"):
        example = example.detach().cpu()
    pixels: NDArray[Any] = np.asarray(example)
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4):
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.dtype.kind not in "buif" or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))
    ):
        raise ValueError(
            "an example must be text, an image, a figure or the Path of an image; got "
            f"{type(example).__name__} of shape {pixels.shape}"
        )
    if pixels.dtype != np.uint8:  # stretched: whatever its unit, something is seen
        numbers = pixels.astype(np.float64)
        numbers = np.where(np.isfinite(numbers), numbers, 0.0)
        low, high = numbers.min(), numbers.max()
        pixels = np.round(255 * (numbers - low) / (high - low or 1.0)).astype(np.uint8)
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2:] == (1,) else pixels)
