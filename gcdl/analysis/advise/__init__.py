"""``gcdl advise``: what stragglers and links cost a run, and what to do about it.

:mod:`gcdl.analysis.advise.advice` puts the parts together, in the order of the screen.
"""
