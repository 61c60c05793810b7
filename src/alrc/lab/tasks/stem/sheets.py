"""Sheets of examples: what networks were given, the truth, what they made of it, and the error."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

__all__ = ["scale_bar", "sheet"]

Floats = NDArray[np.float64]
DOTS = 100  # to an inch
PANEL, GAP, TOP, RIGHT = 2.4, 0.06, 0.3, 0.64  # inches: of an image, between two, and for words
BAR = 0.12  # inches: width of that of the colours
LONGEST = 0.4  # of the width of an image that a scale bar may take
UNITS = (("mm", 1e6), ("µm", 1e3), ("nm", 1.0), ("pm", 1e-3))  # in nm
SIZE = 10  # of letters
SHOWN = 0.995  # of all errors are within the range of colours
BROKEN = "#CC79A7"  # of pixels that are NaN or infinite


def sheet(
    rows: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]],
    labels: Sequence[str] = ("input", "truth", "completion"),
    pixel_size: float | None = None,
) -> NDArray[np.float32]:
    """Draws examples beneath each other: input, truth, completion, and completion minus truth.

    Grey values of truth and completion are those of the truth's own range; an input has its own.
    Errors have one range of colours for the whole sheet, with 0 in its middle, which 99.5 % of them
    are within; it is shown beside them.
    Pixels that are NaN or infinite are pink.

    Args:
        rows: Of each example the input ``(h, w)``, of any size, and truth and completion
            ``(H, W)``.
        labels: Of these three columns.
        pixel_size: Side of a pixel of the truth in nm, if it is known: each truth then has a scale
            bar.

    Returns:
        The sheet as an image ``(height, width, 3)``, from 0 to 1.

    Raises:
        ValueError: If there is no example, or a completion has another shape than its truth.
    """
    examples = [[np.asarray(x, np.float64) for x in row] for row in rows]
    _check(examples)
    width, height = 4 * (PANEL + GAP) + RIGHT, TOP + len(examples) * (PANEL + GAP) - GAP
    # Its own canvas: pyplot would keep the figure.
    figure = Figure(figsize=(width, height), dpi=DOTS, facecolor="white")
    canvas: Any = FigureCanvasAgg(figure)

    def axes(row: int, column: int, wide: float) -> Axes:
        left, low = column * (PANEL + GAP), height - TOP - row * (PANEL + GAP) - PANEL
        return figure.add_axes((left / width, low / height, wide / width, PANEL / height))

    most = _extent([completion - truth for _, truth, completion in examples])
    for row, (given, truth, completion) in enumerate(examples):
        grey = _range(truth)
        _draw(axes(row, 0, PANEL), given, "gray", _range(given))
        _draw(place := axes(row, 1, PANEL), truth, "gray", grey)
        _draw(axes(row, 2, PANEL), completion, "gray", grey)
        drawn = _draw(axes(row, 3, PANEL), completion - truth, "RdBu_r", (-most, most))
        if pixel_size is not None:
            _draw_bar(place, truth.shape, pixel_size)
    for place, words in zip(figure.axes, [*labels, f"{labels[-1]} - {labels[-2]}"], strict=False):
        place.set_title(words, fontsize=SIZE, color="black", pad=4)
    bar = figure.colorbar(
        drawn, cax=axes(len(examples) - 1, 4, BAR), extend="both", extendfrac=0.03
    )
    bar.ax.tick_params(labelsize=SIZE - 2, colors="black")
    canvas.draw()
    pixels: NDArray[np.float32] = np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32)
    return pixels / np.float32(255)


def _draw(axes: Axes, image: Floats, colours: str, extent: tuple[float, float]) -> AxesImage:
    axes.set_axis_off()
    return axes.imshow(
        np.ma.masked_invalid(image),
        matplotlib.colormaps[colours].with_extremes(bad=BROKEN),
        vmin=extent[0],
        vmax=extent[1],
        interpolation="antialiased",
    )


def scale_bar(width: float) -> tuple[float, str]:
    """A round length that fits into an image of so many nm.

    Returns:
        The length in nm, and how it is written: 1, 2 or 5 times a power of ten.

    Example:
        >>> scale_bar(12.8)
        (5.0, '5 nm')
        >>> scale_bar(2500.0)
        (1000.0, '1 µm')
    """
    most = LONGEST * width
    power = 10.0 ** math.floor(math.log10(most) + 1e-9)
    length = next(n for n in (5, 2, 1) if n * power <= most * (1 + 1e-9)) * power
    unit, size = next((u for u in UNITS if length >= u[1] * (1 - 1e-9)), UNITS[-1])
    return length, f"{length / size:g} {unit}"


def _check(examples: Sequence[Sequence[Floats]]) -> None:
    if not examples:
        raise ValueError("sheet: rows must hold at least one example, to have something to draw.")
    for i, (given, truth, completion) in enumerate(examples):
        if truth.ndim != 2 or given.ndim != 2 or truth.shape != completion.shape:
            raise ValueError(
                "sheet: each row must be three images, the last two of one shape, because their "
                f"difference is drawn; row {i} has {given.shape}, {truth.shape} and "
                f"{completion.shape}."
            )


def _range(image: Floats) -> tuple[float, float]:
    """Of what is finite; never empty."""
    there = image[np.isfinite(image)]
    least, largest = (float(there.min()), float(there.max())) if there.size else (0.0, 1.0)
    return (least, largest) if largest > least else (least, least + 1.0)


def _extent(errors: Sequence[Floats]) -> float:
    """What most errors are within, so that a few large ones do not hide all others."""
    sizes = np.abs(np.concatenate([error[np.isfinite(error)] for error in errors]))
    if not sizes.size:
        return 1.0
    return float(np.quantile(sizes, SHOWN)) or float(sizes.max()) or 1.0


def _draw_bar(axes: Axes, shape: tuple[int, ...], pixel_size: float) -> None:
    """In the lower left corner, white with a dark edge, to be seen on any image."""
    height, width = shape
    length, words = scale_bar(width * pixel_size)
    left, low, thick = 0.05 * width - 0.5, 0.95 * height - 0.5, 0.022 * height
    axes.add_patch(
        Rectangle(
            (left, low - thick),
            length / pixel_size,
            thick,
            fc="white",
            ec="black",
            lw=0.5,
            aa=False,
        )
    )
    text = axes.text(
        left, low - 1.8 * thick, words, fontsize=SIZE, color="white", ha="left", va="bottom"
    )
    text.set_path_effects([withStroke(linewidth=2, foreground="black")])
