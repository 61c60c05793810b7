"""Whether a step of training came to the limit at all."""

from collections.abc import Callable
from typing import Any


class _Reached:
    """Raised by each call of a layer in training, compiled or not; taken down by :func:`watched`.

    While a step is being traced, it is the tracing that calls the layer.
    """

    flag = False


reached = _Reached()


def watched(train: Callable[..., Any], refusal: Callable[[], Exception]) -> Callable[..., Any]:
    """The function of a training step, which is refused if its first call limits nothing."""
    watching = True

    def step(*args: Any) -> Any:
        nonlocal watching
        if not watching:
            return train(*args)
        reached.flag = False
        result = train(*args)
        if not reached.flag:
            raise refusal()
        watching = False
        return result

    return step
