"""This process and its machine: how it was launched, its cores, its signals, other processes. No MPI, no torch."""
