"""Draws docs/stem/completed.png: whole scans, as if only a spiral of each had been scanned.

::

    alrc lab run partial-stem --path infill --spiral-side 512 --average 1 --out trained
    python benchmarks/stem_completion.py trained

With a run that was trained with scans of your own, name some of them, too.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image

from alrc.lab.data.stem import paths
from alrc.lab.data.stem.reading import Scan, read_scan
from alrc.lab.data.stem.simulated import simulated_scans
from alrc.lab.tasks.stem.sheets import sheet

TARGET = Path(__file__).parents[1] / "docs/stem/completed.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "scans", type=Path, nargs="*", help="three simulated ones, if there are none"
    )
    arguments = parser.parse_args()
    scans = [read_scan(path) for path in arguments.scans] or simulated_scans()[1:10:4]
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(arguments.run, scan, Path(folder)) for scan in scans]
    TARGET.parent.mkdir(exist_ok=True)
    drawn = sheet(rows, ("scanned: 5 %", "truth, blurred", "completion"))
    Image.fromarray((255 * drawn).astype(np.uint8)).quantize(256).save(TARGET, optimize=True)
    print(TARGET)


def row(run: Path, scan: Scan, folder: Path) -> tuple[np.ndarray, ...]:
    whole = scan.pixels.copy()
    visited = paths.spiral(len(whole), 0.05) > 0
    given = np.where(visited, whole, np.nan).astype(np.float32)
    partial, completed = folder / "partial.tif", folder / f"{scan.name}-completed.tif"
    tifffile.imwrite(partial, given)
    command = ["alrc", "lab", "complete", "--checkpoint", run, "--scan", partial]
    subprocess.run([*command, "--out", completed], check=True)
    truth = paths.blur(torch.from_numpy(whole)[None])[0].numpy()
    made = tifffile.imread(completed)
    mean, filled = truth.mean(), paths.infill(torch.from_numpy(whole)[None], visited)
    smooth = paths.blur(paths.blur(filled))[0].numpy()
    errors = {"completion": made, "nearest pixel, blurred": smooth, "mean": mean}
    for name, image in errors.items():
        error = np.mean((image - truth) ** 2) / np.ptp(whole) ** 2
        print(f"{scan.name}: {name}: mean squared error {error:.5f} of a squared range")
    return np.where(visited, whole, whole.min()), truth, made


if __name__ == "__main__":
    main()
