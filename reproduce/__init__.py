import sys
from pathlib import Path

# the scripts say `from drawing import ...`, which must also work when they are loaded as reproduce.figure1, beside a drawing.py of somebody's own
sys.path.insert(0, str(Path(__file__).resolve().parent))
