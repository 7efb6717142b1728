"""What a run, or a code, was worth."""
