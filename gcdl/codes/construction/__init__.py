"""How codes are built: assignments, finite fields, the search for cyclic codes, decoding when few workers are missing."""
