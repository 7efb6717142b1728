"""The command line."""

from gcdl.cli.commands import app, main

__all__ = ["app", "main"]
