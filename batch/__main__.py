"""``python -m batch`` is ``batch-predict``."""

from batch.cli import main

main()
