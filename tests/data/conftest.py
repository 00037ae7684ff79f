"""Makes modules of this folder importable: `own_images`, `stored_sets`, writers of other tests."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
