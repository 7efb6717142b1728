"""What can be learnt from a finished run, or from a code: plots, reports, replay, reply times; ``sweeps`` runs whole grids."""
