import contextlib
import sys
from pathlib import Path

# the scripts' `from drawing import ...` must also work when they are loaded as reproduce.figure1. Last in the path, because a method's file may
# have a report.py of its own beside it
HOME = str(Path(__file__).resolve().parent)
sys.path.append(HOME)


@contextlib.contextmanager
def first():
    """Scripts that are loaded meanwhile find this folder's modules, and not the notes.py of the folder in which a command is given."""
    sys.path.insert(0, HOME)
    try:
        yield
    finally:
        sys.path.remove(HOME)
