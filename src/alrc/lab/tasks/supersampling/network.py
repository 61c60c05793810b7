"""The network of the paper's CIFAR-10 supersampling experiment."""

from torch import Tensor, nn

from alrc.lab.tasks.weights import xavier

__all__ = ["SupersamplingNetwork"]


class SupersamplingNetwork(nn.Module):
    """Ten convolutions that sharpen an image that was halved in size and enlarged again.

    All are of stride 1 and keep the size; a ReLU follows each but the last. Six of the ten are in
    three residual blocks. Weights are Glorot-uniform, biases zero.

    Args:
        width: Features of the first layer, >= 1; the widest layers have twice as many. The
            paper's 64 has 1,042,819 parameters; 16 has 67,171.
        seed: Fixes the initial weights, whatever torch's global generator is at.

    Shape:
        - images: ``(N, 3, H, W)``, floating.
        - result: the same.
    """

    def __init__(self, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(3, width, 5),
            nn.ReLU(),
            _convolution(width, 2 * width, 3),
            nn.ReLU(),
            *(ResidualBlock(2 * width) for _ in range(3)),
            _convolution(2 * width, width, 3),
            nn.ReLU(),
            _convolution(width, 3, 5),
        )
        xavier(self, seed)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.layers(images)
        return result


class ResidualBlock(nn.Module):
    """Adds to its input what two convolutions, each with a ReLU, make of it."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(features, features, 3),
            nn.ReLU(),
            _convolution(features, features, 3),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.layers(x)
        return result


def _convolution(features_in: int, features_out: int, kernel_size: int) -> nn.Conv2d:
    return nn.Conv2d(features_in, features_out, kernel_size, padding="same")
