"""The lines that must be fast: packing, drawing and decoding, over blocks of coordinates."""
