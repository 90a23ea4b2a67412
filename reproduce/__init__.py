import sys
from pathlib import Path

# the scripts' `from drawing import ...` must also work when they are loaded as reproduce.figure1. Last in the path, because a method's file may
# have a report.py of its own beside it
sys.path.append(str(Path(__file__).resolve().parent))
