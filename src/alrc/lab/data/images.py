"""32x32 colour images: patches of real photographs, and CIFAR-10.

The photographs are those that scikit-image's wheel ships as files and that its documentation of
``skimage.data`` puts in the public domain:

- ``astronaut.png``: Eileen Collins, NASA Great Images database; no known copyright restrictions,
  released into the public domain.
- ``chelsea.png``: Chelsea the cat, by Stefan van der Walt; CC0.
- ``coffee.png``: a cup of coffee, by Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0.
- ``rocket.jpg``: launch of DSCOVR on Falcon 9, by SpaceX; released into the public domain.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Images", "load_images", "load_photographs", "read_cifar10"]

Bytes = NDArray[np.uint8]

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
SIDE = 32
# A photograph is cut into blocks, each wholly for training or wholly held out, and the blocks into
# patches: so no pixel is in both parts. 128 pixels hold patches at full, half and quarter scale.
BLOCK = 128
STRIDE = 8
HELD_OUT_EVERY = 5

CIFAR10_TRAINING = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10_HELD_OUT = ("test_batch.bin",)
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_CLASSES = 10
RECORD = 1 + 3 * SIDE * SIDE  # bytes: the label, then the red, green and blue planes


@dataclass(frozen=True, eq=False)
class Images:
    """A named set of images, split into a training and a held-out part.

    Attributes:
        name: What the images are, for titles.
        training: Shape ``(N, 3, 32, 32)``, uint8, channels red, green, blue.
        held_out: The same for images that share no pixel with ``training``.
    """

    name: str
    training: Bytes
    held_out: Bytes

    def sha256(self) -> str:
        """Checksum of all pixels, by which other images are told from these."""
        checksum = hashlib.sha256(self.training.tobytes())
        checksum.update(self.held_out.tobytes())
        return checksum.hexdigest()


@functools.cache
def load_images(images: str) -> Images:
    """The images that an option names, loaded once in each process.

    Args:
        images: ``"photographs"``, or the folder of CIFAR-10's six binary files.

    Raises:
        FileNotFoundError: If there is no such folder, or one of its files is missing.
        ValueError: If CIFAR-10 is not as it should be.
    """
    if images == "photographs":
        return load_photographs()
    folder = Path(images)
    if not folder.is_dir():
        found = "which is a file" if folder.exists() else "which is not there"
        raise FileNotFoundError(
            "images must be photographs, or a folder with CIFAR-10's six binary files; got "
            f"{images!r}, {found}. Type alrc lab data cifar10: it downloads them once, and prints "
            "their folder."
        )
    return read_cifar10(folder)


def load_photographs() -> Images:
    """Patches of the photographs that scikit-image ships; nothing is downloaded.

    Patches are cut every 8 pixels, at full, half and quarter scale, so that they show textures
    as well as whole objects. The same patches, in the same order, at every call.

    Raises:
        FileNotFoundError: If one of the photographs is not where scikit-image installs it.
    """
    import skimage.io  # slow, and not needed to read CIFAR-10

    folder = Path(skimage.__file__).parent / "data"
    blocks: list[Bytes] = []
    for name in PHOTOGRAPHS:
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} must be there, because the wheel of scikit-image ships it; it is missing. "
                "Install it again with: pip install --force-reinstall scikit-image"
            )
        blocks.extend(_blocks(skimage.io.imread(path)))
    held_out = [_patches(block) for block in blocks[::HELD_OUT_EVERY]]
    del blocks[::HELD_OUT_EVERY]
    training = [_patches(block) for block in blocks]
    return Images("photographs", np.concatenate(training), np.concatenate(held_out))


def _blocks(photograph: Bytes) -> list[Bytes]:
    """The whole blocks of an image ``(H, W, 3)``, row by row; each ``(128, 128, 3)``."""
    height, width, _ = photograph.shape
    return [
        photograph[top : top + BLOCK, left : left + BLOCK]
        for top in range(0, height - BLOCK + 1, BLOCK)
        for left in range(0, width - BLOCK + 1, BLOCK)
    ]


def _patches(block: Bytes) -> Bytes:
    """Overlapping patches ``(N, 3, 32, 32)`` of a block at full, half and quarter scale."""
    patches = []
    for factor in (1, 2, 4):
        size = BLOCK // factor
        cells = block.reshape(size, factor, size, factor, 3)
        scaled = np.rint(cells.mean(axis=(1, 3))).astype(np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(scaled, (SIDE, SIDE), axis=(0, 1))
        patches.append(windows[::STRIDE, ::STRIDE].reshape(-1, 3, SIDE, SIDE))
    return np.concatenate(patches)


def read_cifar10(folder: Path) -> Images:
    """Reads CIFAR-10's original binary files, with any number of records in each.

    Args:
        folder: Holds ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``. A record
            is 3,073 bytes: a label from 0 to 9, then the red, green and blue planes of 32x32.

    Raises:
        FileNotFoundError: If one of the six files is missing.
        ValueError: If a file is empty, or not made of whole records with labels from 0 to 9.

    References:
        A. Krizhevsky, "Learning multiple layers of features from tiny images" (2009),
        https://www.cs.toronto.edu/~kriz/cifar.html
    """
    training, held_out = (
        np.concatenate([_read_records(folder / name) for name in names])
        for names in (CIFAR10_TRAINING, CIFAR10_HELD_OUT)
    )
    return Images("CIFAR-10", training, held_out)


def _read_records(path: Path) -> Bytes:
    mend = f"Download {CIFAR10_URL} again, unpack it, and give its folder cifar-10-batches-bin."
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} must be there, because it is one of the six binary files of CIFAR-10; it is "
            f"missing. {mend}"
        )
    content = np.fromfile(path, np.uint8)
    excess = content.size % RECORD
    if excess or not content.size:
        found = f"{content.size:,} bytes, {excess:,} bytes over" if content.size else "no bytes"
        raise ValueError(
            f"{path} must hold whole records of {RECORD:,} bytes, at least one; it has {found}. "
            f"{mend}"
        )
    records = content.reshape(-1, RECORD)
    labels = records[:, 0]
    if wrong := np.flatnonzero(labels >= CIFAR10_CLASSES).tolist():
        raise ValueError(
            f"{path} must have a label from 0 to {CIFAR10_CLASSES - 1} as the first byte of every "
            f"record; record {wrong[0]:,} (counted from 0) has {labels[wrong[0]]}. {mend}"
        )
    return records[:, 1:].reshape(-1, 3, SIDE, SIDE)
