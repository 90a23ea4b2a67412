"""Warnings that name a line of the user's code."""
import os
import sys
import warnings
from pathlib import Path

import torch

PASSED = tuple(str(Path(file).parent) + os.sep for file in (__file__, torch.__file__))


def warn(message):
    """Warns, and names the innermost line of code in the call stack that is neither this package's nor torch's."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_code.co_filename.startswith(PASSED):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
