"""How figures look: one panel each, in colours that the page can turn dark."""

import io
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from alrc.lab.engine.steps import SKIPPED
from alrc.lab.report.markup import Image
from alrc.lab.report.results import Run

__all__ = [
    "ACCENT",
    "BLOCKS",
    "INK",
    "blocks",
    "fit_height",
    "image",
    "legend",
    "number",
    "panel",
    "plain_numbers",
    "scale",
    "styles",
]

# Stands for the colour of text: the page puts its own in its place, paper has it as good as black.
INK = "#010203"
# From Okabe and Ito's colours, which are told apart with every kind of colour vision, and which
# stand out from white and from black. Dashes and markers tell arms apart without colours too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2, 1, 2)))
MARKERS = "osD^vPX"
ACCENT = ("#E69F00", "#0072B2")  # what was cut off, and what was left
BLOCKS = 200  # points of a curve; more would not be seen
STYLE = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.facecolor", "legend.facecolor"), "none"),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "path.simplify": True,
    "svg.fonttype": "none",  # words are text in the page too
    "text.parse_math": False,  # a name with dollar signs is a name
}
WIDTH, HEIGHT, LINE = 4.4, 2.6, 0.17  # inches: as wide as a phone; of axes; of a legend's line


@contextmanager
def panel(title: str, height: float = HEIGHT) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of axes."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        words = "\n".join(textwrap.wrap(title, 60))
        figure.suptitle(words, x=0.01, horizontalalignment="left", fontsize=9)
        yield figure, axes


def image(figure: Figure, name: str, alt: str) -> Image:
    """The figure as a file and as a part of the page; the same figure gives the same bytes."""
    png, svg = io.BytesIO(), io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a name; the page has other fonts
        figure.savefig(png, format="png", dpi=150, facecolor="white", metadata={"Software": None})
        figure.set_layout_engine("none")  # what it found stays
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    return Image(f"figures/{name}.png", alt, png.getvalue(), _inline(svg.getvalue(), name))


def _inline(svg: str, name: str) -> str:
    """The drawing alone, whose text has the page's colour; names within it are its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    size = re.search(r'viewBox="([^"]+)"', head)
    assert size is not None  # Matplotlib writes it
    for before in ('id="', 'href="#', "url(#"):
        rest = rest.replace(before, f"{before}{name}-")
    rest = rest.replace(INK, "currentColor")
    return f'<svg viewBox="{size[1]}" xmlns:xlink="http://www.w3.org/1999/xlink">{rest.strip()}'


def styles(arms: Sequence[str], baselines: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, dashes and marker of each arm, the same in all figures; a baseline is of ink."""
    plain = set(baselines)
    others = [arm for arm in arms if arm not in plain]
    found: dict[str, dict[str, Any]] = {
        arm: {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": DASHES[i % len(DASHES)],
            "marker": MARKERS[i % len(MARKERS)],
        }
        for i, arm in enumerate(others)
    }
    ink = {"color": INK, "linestyle": "-", "marker": "o"}
    return {arm: found.get(arm, ink) for arm in arms}


def blocks(run: Run, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A series in at most `BLOCKS` blocks of steps: the middle of each, and the mean in it.

    Steps in which it did not occur, whose rows are NaN, count in no mean; but for steps that were
    skipped, whose mean is their share.
    """
    if (key := ("blocks", name)) not in run.kept:
        rows = run.series(name)
        means = rows.reshape(len(rows), -1).mean(axis=1, dtype=np.float64)
        if name.startswith(f"arm.{SKIPPED}."):
            means = np.nan_to_num(means)
        run.kept[key] = block_means(means)
    steps, means = run.kept[key]
    return steps, means


def block_means(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    edges = np.linspace(0, len(values), min(len(values), BLOCKS) + 1).astype(np.int64)
    there = ~np.isnan(values)
    sums = np.add.reduceat(np.where(there, values, 0), edges[:-1])
    counts = np.add.reduceat(there.astype(np.int64), edges[:-1])
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return (edges[:-1] + edges[1:] + 1) / 2, means


def number(value: float) -> str:
    """As it is spoken: 0.5 and 20,000."""
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def scale(axes: Axes, values: NDArray[np.float64]) -> None:
    """A logarithmic vertical axis where all values allow it."""
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0 and finite.max() > 2 * finite.min():
        axes.set_yscale("log")


def fit_height(axes: Axes, values: NDArray[np.float64]) -> None:
    """Shows these values, whatever else is drawn; numbers as they are spoken."""
    finite = values[np.isfinite(values)]
    if finite.size:
        low, high = float(finite.min()), float(finite.max())
        if axes.get_yscale() == "log":
            axes.set_ylim(low / 1.1, high * 1.1)
        else:
            room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
            axes.set_ylim(low - room, high + room)
    plain_numbers(axes.xaxis, axes.yaxis)


def plain_numbers(*both: Axis) -> None:
    """0.5 and 20,000, and some of them on short logarithmic axes too."""
    for axis in both:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            decades = np.log10(high / low)
            if decades >= 0.7:
                subs = (1, 2, 5) if decades < 2 else (1,)
                axis.set_major_locator(LogLocator(subs=subs, numticks=7))
            axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.6g}"))
        axis.set_minor_formatter(NullFormatter())


def legend(axes: Axes) -> None:
    """Beneath the axes, in two columns where the names are short; the figure grows by it."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    if handles:
        columns = 2 if max(map(len, labels)) <= 24 else 1
        labels = ["\n".join(textwrap.wrap(label, 56, break_on_hyphens=False)) for label in labels]
        figure.legend(handles, labels, loc="outside lower left", ncols=columns)
        lines = sum(1 + label.count("\n") for label in labels) / columns
        figure.set_figheight(figure.get_figheight() + LINE * np.ceil(lines))
