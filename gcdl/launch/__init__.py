"""Starting ranks and watching over them; ``gcdl doctor``."""
