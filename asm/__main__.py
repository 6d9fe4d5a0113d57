"""`python -m asm` is the `asm` command."""

from asm.cli import main

main()
