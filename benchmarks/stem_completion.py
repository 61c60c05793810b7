"""Draws docs/stem/completed.png: whole scans, as if only a spiral of each had been scanned.

::

    alrc lab run partial-stem --scans 'SCANS/*.tif' --path infill --spiral-side 512 --average 1 --out trained
    python benchmarks/stem_completion.py trained SCANS/truth-02.tif SCANS/truth-05.tif
"""  # noqa: E501

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image

from alrc.lab.data.stem import paths
from alrc.lab.data.stem.reading import read_scan
from alrc.lab.tasks.stem.sheets import sheet

TARGET = Path(__file__).parents[1] / "docs/stem/completed.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("scans", type=Path, nargs="+")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(arguments.run, scan, Path(folder)) for scan in arguments.scans]
    TARGET.parent.mkdir(exist_ok=True)
    drawn = sheet(rows, ("scanned: 5 %", "truth, blurred", "completion"))
    Image.fromarray((255 * drawn).astype(np.uint8)).quantize(256).save(TARGET, optimize=True)
    print(TARGET)


def row(run: Path, scan: Path, folder: Path) -> tuple[np.ndarray, ...]:
    whole = read_scan(scan).pixels
    visited = paths.spiral(len(whole), 0.05) > 0
    given = np.where(visited, whole, np.nan).astype(np.float32)
    partial, completed = folder / f"{scan.stem}.tif", folder / f"{scan.stem}-completed.tif"
    tifffile.imwrite(partial, given)
    command = ["alrc", "lab", "complete", "--checkpoint", run, "--scan", partial]
    subprocess.run([*command, "--out", completed], check=True)
    truth = paths.blur(torch.from_numpy(whole)[None])[0].numpy()
    made = tifffile.imread(completed)
    mean, filled = truth.mean(), paths.infill(torch.from_numpy(whole)[None], visited)
    smooth = paths.blur(paths.blur(filled))[0].numpy()
    errors = {"completion": made, "nearest pixel, blurred": smooth, "mean": mean}
    for name, image in errors.items():
        print(f"{scan.stem}: {name}: mean squared error {np.mean((image - truth) ** 2):.5f}")
    return np.where(visited, whole, whole.min()), truth, made


if __name__ == "__main__":
    main()
