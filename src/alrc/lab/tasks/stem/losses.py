"""What partial-STEM and STEM supersampling train with, and at which learning rate."""

from torch import Tensor

__all__ = ["SCALE", "block_losses", "staircase"]

SCALE = 200.0  # of the paper's mean squared errors
STAIRS = 8


def block_losses(
    images: Tensor, targets: Tensor, power: int = 2, block: int | None = None
) -> Tensor:
    """200 times the mean of the difference to a power, of each image or each square of pixels.

    The mean over the squares of an image is its own loss.

    Args:
        images: Shape ``(N, H, W)``.
        targets: The same.
        power: Of the difference; even.
        block: Side of the squares, which divides H and W; None for whole images.

    Returns:
        Shape ``(N,)``, or ``(N, squares)``, row by row.
    """
    errors = SCALE * (images - targets).pow(power)
    if block is None:
        return errors.flatten(1).mean(1)
    count, height, width = errors.shape
    squares = errors.view(count, height // block, block, width // block, block)
    return squares.mean((2, 4)).flatten(1)


def staircase(step: int, steps: int) -> float:
    """The paper's learning rate as a factor of the first, in two equal stages.

    Each is constant for its first half, and then falls in eight equal steps to an eighth; the
    second is a third of the first.
    """
    stage, within = divmod(4 * step, 2 * steps) if step < steps else (1, 2 * steps - 1)
    fall = max(within - steps, 0) * STAIRS // steps
    factor = 1 - fall / STAIRS
    return factor if stage == 0 else factor / 3
