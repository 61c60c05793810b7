"""The images: which photographs, which pixels; and what a bad CIFAR-10 file gets."""

from pathlib import Path

import numpy as np
import pytest
import skimage.io
from cifar10_archives import BINARIES, SUBSET

from alrc.lab.data.images import load_images, load_photographs, read_cifar10

MEND = (
    "Download https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz again, unpack it, and give "
    "its folder cifar-10-batches-bin."
)


def test_photographs_are_the_same_at_every_call() -> None:
    first, second = load_photographs(), load_photographs()
    assert first.name == "photographs"
    # 49 whole blocks of 128 pixels in the four pictures, every fifth of them held out; in each
    # 13 x 13 patches at full, 5 x 5 at half and 1 at quarter scale.
    assert first.training.shape == (39 * 195, 3, 32, 32)
    assert first.held_out.shape == (10 * 195, 3, 32, 32)
    assert first.training.dtype == first.held_out.dtype == np.uint8
    np.testing.assert_array_equal(first.training, second.training)
    np.testing.assert_array_equal(first.held_out, second.held_out)


def test_photographs_are_whole_pictures_in_colour() -> None:
    astronaut = skimage.io.imread(Path(skimage.__file__).parent / "data" / "astronaut.png")
    images = load_photographs()
    np.testing.assert_array_equal(images.held_out[0], astronaut[:32, :32].transpose(2, 0, 1))
    np.testing.assert_array_equal(
        images.training[1],
        astronaut[:32, 136:168].transpose(2, 0, 1),  # one stride to the right
    )


def test_no_pixel_is_both_in_training_and_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter(range(24))

    def numbered_blocks(path: Path) -> np.ndarray:
        """A picture of 2 x 3 blocks with a rest, where each pixel holds its block's number."""
        picture = np.full((300, 390, 3), 255, np.uint8)
        for top in (0, 128):
            for left in (0, 128, 256):
                picture[top : top + 128, left : left + 128] = next(counter)
        return picture

    monkeypatch.setattr(skimage.io, "imread", numbered_blocks)
    images = load_photographs()
    blocks = [set(np.unique(part).tolist()) for part in (images.training, images.held_out)]
    assert blocks[1] == {0, 5, 10, 15, 20}
    assert blocks[0] == set(range(24)) - blocks[1]
    for part in (images.training, images.held_out):  # no patch reaches over two blocks
        assert (part == part[:, :1, :1, :1]).all()


def test_patches_at_half_and_quarter_scale_are_local_means(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    monkeypatch.setattr(skimage.io, "imread", lambda path: picture)
    block = load_photographs().training[:195]
    for index, factor, top, left in ((1, 1, 0, 8), (13, 1, 8, 0), (169 + 5 + 2, 2, 8, 16)):
        for row, column in ((0, 0), (3, 30), (31, 17)):
            y, x = (top + row) * factor, (left + column) * factor
            mean = picture[y : y + factor, x : x + factor].mean((0, 1))
            np.testing.assert_array_equal(block[index, :, row, column], np.rint(mean))
    np.testing.assert_array_equal(block[194, :, 31, 31], np.rint(picture[124:, 124:].mean((0, 1))))


def test_a_missing_photograph_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(skimage, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(FileNotFoundError) as caught:
        load_photographs()
    assert str(caught.value) == (
        f"{tmp_path}/data/astronaut.png must be there, because the wheel of scikit-image ships it; "
        "it is missing. Install it again with: pip install --force-reinstall scikit-image"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six files, of 1 to 6 records each; random labels and pixels."""
    rng = np.random.default_rng(0)
    for count, name in enumerate(BINARIES, 1):
        records = rng.integers(0, 256, (count, 3073), np.uint8)
        records[:, 0] %= 10
        (tmp_path / name).write_bytes(records.tobytes())
    return tmp_path


def test_cifar10_is_read_byte_by_byte(folder: Path) -> None:
    images = read_cifar10(folder)
    assert images.name == "CIFAR-10"
    assert images.training.shape == (15, 3, 32, 32)
    assert images.held_out.shape == (6, 3, 32, 32)
    second_file = (folder / "data_batch_2.bin").read_bytes()
    # The second record's pixel in row 7, column 5: red, green and blue are 1,024 bytes apart.
    start = 3073 + 1 + 7 * 32 + 5
    assert images.training[2, :, 7, 5].tolist() == list(second_file[start : start + 3072 : 1024])
    held_out = (folder / "test_batch.bin").read_bytes()
    assert images.held_out[5].tobytes() == held_out[-3072:]


@pytest.mark.parametrize("name", BINARIES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        read_cifar10(folder)
    assert str(caught.value) == (
        f"{folder / name} must be there, because it is one of the six binary files of CIFAR-10; it "
        f"is missing. {MEND}"
    )


@pytest.mark.parametrize(
    ("size", "found"),
    [(0, "no bytes"), (3072, "3,072 bytes, 3,072 bytes over"), (6150, "6,150 bytes, 4 bytes over")],
)
@pytest.mark.parametrize("name", BINARIES)
def test_a_file_of_the_wrong_size_is_refused(
    folder: Path, name: str, size: int, found: str
) -> None:
    (folder / name).write_bytes(bytes(size))
    with pytest.raises(ValueError, match="must hold") as caught:
        read_cifar10(folder)
    assert str(caught.value) == (
        f"{folder / name} must hold whole records of 3,073 bytes, at least one; it has {found}. "
        f"{MEND}"
    )


@pytest.mark.parametrize("label", [10, 255])
def test_a_wrong_label_is_refused(folder: Path, label: int) -> None:
    path = folder / "data_batch_3.bin"
    content = bytearray(path.read_bytes())
    content[2 * 3073] = label
    path.write_bytes(content)
    with pytest.raises(ValueError, match="label") as caught:
        read_cifar10(folder)
    assert str(caught.value) == (
        f"{path} must have a label from 0 to 9 as the first byte of every record; record 2 "
        f"(counted from 0) has {label}. {MEND}"
    )


def test_label_nine_is_accepted(folder: Path) -> None:
    path = folder / "data_batch_1.bin"
    path.write_bytes(b"\x09" + path.read_bytes()[1:])
    assert len(read_cifar10(folder).training) == 15


@pytest.mark.skipif(not SUBSET.is_dir(), reason="the CIFAR-10 subset lies only beside the project")
def test_the_real_files_are_read() -> None:
    images = read_cifar10(SUBSET)
    assert images.training.shape == (5085, 3, 32, 32)
    assert images.held_out.shape == (1017, 3, 32, 32)
    # Photographs: neighbours in a row are alike, unlike those at the other end of the image.
    values = images.training.astype(float)
    near = np.abs(values[..., 1:] - values[..., :-1]).mean()
    far = np.abs(values[..., 16:] - values[..., :16]).mean()
    assert near < 0.4 * far


def test_an_option_names_the_photographs_which_are_cut_once() -> None:
    assert load_images("photographs").sha256() == load_photographs().sha256()
    assert load_images("photographs") is load_images("photographs")


def test_an_option_names_the_folder_of_cifar10_which_is_read_once(folder: Path) -> None:
    images = load_images(str(folder))
    assert (images.name, images.sha256()) == ("CIFAR-10", read_cifar10(folder).sha256())
    assert load_images(str(folder)) is images


def test_a_refused_folder_is_looked_at_again(folder: Path) -> None:
    content = (folder / "test_batch.bin").read_bytes()
    (folder / "test_batch.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_batch\.bin must be there"):
        load_images(str(folder))
    (folder / "test_batch.bin").write_bytes(content)
    assert len(load_images(str(folder)).held_out) == 6


@pytest.mark.parametrize(
    ("name", "found"), [("none", "which is not there"), ("file", "which is a file")]
)
def test_an_option_that_names_no_images_is_told_which_there_are(
    tmp_path: Path, name: str, found: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError) as caught:
        load_images(f"{tmp_path}/{name}")
    assert str(caught.value) == (
        "images must be photographs, or a folder with CIFAR-10's six binary files; got "
        f"'{tmp_path}/{name}', {found}. Type alrc lab data cifar10: it downloads them once, and "
        "prints their folder."
    )
