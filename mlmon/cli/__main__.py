"""`python -m mlmon.cli` is `mlmon`."""

from mlmon.cli import main

main()
