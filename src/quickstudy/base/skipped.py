"""The warning for inputs that were left out; needs no torch."""

from __future__ import annotations


class SkippedInput(UserWarning):
    """Some inputs, such as unreadable pictures, were left out of a result.

    The command line ends with exit code 3 after such a warning.
    """
