import sys
from pathlib import Path

# the scripts say `from drawing import ...`, which must also work when they are loaded as reproduce.figure1; last, for a method's file may have a
# report.py of its own beside it
sys.path.append(str(Path(__file__).resolve().parent))
