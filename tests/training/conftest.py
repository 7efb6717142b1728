"""A config that several files use."""

LARGE = """
steps = 20
[problem]
kind = "linear_regression"
[compressor]
kind = "sign"
[downlink]
kind = "sign"
[run]
seconds_per_shard = 0.05
[simulate]
parameters = 25_000_000
latency = 1e-4
decode_seconds = 1.3e-4
decode_seconds_per_coordinate = 2e-10
"""
"""25 million parameters, sign both ways, 0.05 s of computing: what only the clock runs. It lacks workers and links."""
