"""The protocol of master and workers: messages, both ends, wait rules, records. No I/O, no MPI, no clock of its own."""
