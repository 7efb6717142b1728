"""``gcdl run``: starting the ranks of a run with this environment's MPI, and supervising them. ``gcdl doctor``."""
