"""The command line: one file per group of commands. Only this package prints."""

from eyas.cli.app import main

__all__ = ["main"]
