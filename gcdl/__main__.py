"""``python -m gcdl``."""

from gcdl.cli import main

if __name__ == "__main__":
    main()
