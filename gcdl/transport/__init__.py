"""How master and workers reach each other."""
