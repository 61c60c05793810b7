"""The backward passes of a training: which of them a callback limits, and whether it could."""

import warnings

_THROUGH = (
    "each loss must go through manual_backward, because that is where its gradient is limited"
)
_MEND = (
    "Type self.manual_backward(loss) for loss.backward(), or take the callback out and call "
    "alrc.torch.ALRC in training_step."
)


class Passes:
    """Counts backward passes, and says so where training goes on without the callback.

    Args:
        backward: Which pass of each batch is limited, counted from 0; None for all of them.
        automatic: True where Lightning makes the passes, False where ``training_step`` does.
    """

    def __init__(self, backward: int | None, automatic: bool) -> None:
        self.backward, self.automatic = backward, automatic
        self._of_batch = self._most_of_batch = self._num_batches = 0
        self._since_step = 0
        self._num_limited = self._num_gradients = 0  # of these
        self._has_stepped = self._is_reached = False

    def start_batch(self) -> None:
        self._of_batch = 0

    def next_is_limited(self) -> bool:
        """Counts a pass that is about to begin."""
        number = self._of_batch
        self._of_batch += 1
        self._since_step += 1
        self._most_of_batch = max(self._most_of_batch, self._of_batch)
        return self.backward in (None, number)

    def limit(self, has_gradient: bool) -> None:
        """Counts a loss that the callback has limited."""
        self._is_reached = True
        self._num_limited += has_gradient

    def count_gradient(self) -> None:
        """Counts a gradient that came by where it is limited."""
        self._num_gradients += 1

    def step(self) -> None:
        """Notes that an optimizer steps."""
        self._has_stepped = True

    def end_batch(self) -> bool:
        """True if an optimizer has stepped; refused if on gradients that did not come by."""
        self._num_batches += 1
        if not self._has_stepped:
            return False
        # Of a batch without a loss, which automatic optimization skips, Lightning warns itself.
        if not self._since_step and not self.automatic:
            raise RuntimeError(
                f"ALRCCallback: {_THROUGH}; got a step of an optimizer before which none did. "
                f"{_MEND}"
            )
        if self._num_gradients < self._num_limited:
            raise RuntimeError(
                "ALRCCallback: the module's backward(loss) must go backward from the loss that it "
                "is given, because that is where its gradient is limited; got "
                f"{self._num_limited} of them and {self._num_gradients} gradients before a step "
                "of an optimizer. Type loss.backward() there, or take the callback out and call "
                "alrc.torch.ALRC in training_step."
            )
        self._since_step = self._num_limited = self._num_gradients = 0
        self._has_stepped = False
        return True

    def end_epoch(self) -> None:
        """Warns, once, if no loss was limited so far although there might have been."""
        if self._is_reached or self.automatic:
            return
        self._is_reached = True
        given = f"{self._num_batches} batches"
        if self._most_of_batch:
            words = (
                f"batches must have a manual_backward of number backward={self.backward}, counted "
                f"from 0, or nothing is limited; got {given} with {self._most_of_batch} at most. "
                "Type backward=0 for the first, say."
            )
        else:
            words = f"{_THROUGH}; got {given} in which none did. {_MEND}"
        warnings.warn(f"ALRCCallback: {words}", stacklevel=2)
