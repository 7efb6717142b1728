"""This process and its machine: how it was launched, its cores, its signals, and who else is alive. No MPI, no torch."""
