"""Draws docs/stem/paths.png: the paths of partial scans, and what is seen along them.

::

    python benchmarks/stem_paths.py
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from alrc.lab.data.stem.crops import normalise
from alrc.lab.data.stem.paths import dwell, dwell_scan, grid, infill, infilled_scan, spiral
from alrc.lab.data.stem.scans import load_scans

TARGET = Path(__file__).parents[1] / "docs/stem/paths.png"
SIDE, COVERAGE, STRIDE = 128, 1 / 10, 4


def main() -> None:
    image = load_scans("simulated", average=2).training[1][60 : 60 + SIDE, 40 : 40 + SIDE]
    target = torch.from_numpy(normalise(image[None]))
    path, visited = spiral(SIDE, COVERAGE), grid(SIDE, STRIDE)
    beam = dwell(path)
    noise = torch.rand(target.shape, generator=torch.Generator().manual_seed(0))
    on_grid = torch.where(torch.from_numpy(visited), target, -1.0)
    panels = {
        "whole scan": target,
        "spiral, 1/10: pixels visited": path,
        "spiral: time spent at each": beam,
        "grid: every 4th pixel of every 4th line": visited,
        "partial scan, spiral": dwell_scan(target, torch.from_numpy(beam), noise),
        "partial scan, infilled": infilled_scan(target, path),
        "partial scan, grid": on_grid,
        "grid, infilled": infill(target, visited),
    }
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    for axes, (title, panel) in zip(figure.subplots(2, 4).flat, panels.items(), strict=True):
        axes.imshow(np.asarray(panel).squeeze(), cmap="gray", interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    TARGET.parent.mkdir(exist_ok=True)
    figure.savefig(TARGET, dpi=100)
    print(TARGET)


if __name__ == "__main__":
    main()
