"""Where a run's figures go beside the run folder, step by step: one file a tool."""
