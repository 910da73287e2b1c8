"""Makes load_tests importable: it is run from the source and never installed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
