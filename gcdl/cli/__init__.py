"""The command line: thin commands, a file a group. :mod:`gcdl.cli.app` puts them together."""

from gcdl.cli.app import app, main

__all__ = ["app", "main"]
