"""Grids of runs: what to run, what came of it, tables and figures."""
