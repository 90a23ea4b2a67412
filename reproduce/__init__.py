import sys
from pathlib import Path

# the scripts say `from drawing import ...`, which must also work when they are loaded as reproduce.figure1
sys.path.append(str(Path(__file__).resolve().parent))
