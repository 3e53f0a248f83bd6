"""``python -m tests.bad_inputs`` writes docs/bad-inputs.md of the working directory."""

import tempfile
from pathlib import Path

from tests.bad_inputs.case import Benches
from tests.bad_inputs.page import page

with tempfile.TemporaryDirectory() as folder:
    Path("docs/bad-inputs.md").write_text(page(Benches(Path(folder))), "utf-8")
