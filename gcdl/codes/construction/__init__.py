"""What the constructions of the codes share: assignments, finite fields, circulant searches, decoding few missing workers."""
