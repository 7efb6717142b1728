"""Master and workers as MPI ranks."""
