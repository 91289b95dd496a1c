"""``python -m fartrack`` is the command, as ``torchrun`` needs it."""

from fartrack.cli import main

main()
