"""Reads loss curves and says what a limit would have done to them."""
