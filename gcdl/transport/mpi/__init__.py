"""Messages over MPI: the master's end, a worker's end, and what keeps a job of ranks together."""
