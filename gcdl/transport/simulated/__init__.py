"""Master and workers in one process, on a virtual clock."""
