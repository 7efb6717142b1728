"""How messages between master and workers travel: over MPI, on a virtual clock, or out of a recorded run."""
