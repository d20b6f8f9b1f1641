"""The command line: one module for each command; they parse, call the public functions, and print."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 the user's input or usage."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run a command line and return its exit code."""
    from finepoint.cli.application import application
    from finepoint.cli.output import complain
    from finepoint.errors import FinepointError, storage_errors

    try:
        with storage_errors():
            application(args=arguments, prog_name="finepoint")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except FinepointError as error:
        complain(str(error))
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`finepoint runs | head`); that is no error of ours.
        sys.stderr.close()
    return 0
