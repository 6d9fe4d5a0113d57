"""The `asm` command, one module per group of subcommands. No other package imports this one."""

import sys


def main() -> None:
    """Run the command. It needs the extra `cli`, which the library does not."""
    try:
        from asm.cli.command import run

        run()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit("asm: the command needs click and rich: pip install 'asm-store[cli]'")
    except KeyboardInterrupt:
        # The imports take long enough to be interrupted. `run` handles an interrupt of the command.
        sys.exit(130)
