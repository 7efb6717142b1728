"""Loggers: they hand a run's figures to a tool, step by step. One file a tool."""
