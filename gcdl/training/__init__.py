"""A run, from its start to its folder: the loop, evaluation, checkpoints, records, the display, and the Trainer."""
