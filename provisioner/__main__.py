"""`python -m provisioner` does the same as `provisioner`, with the same exit status."""

import sys

from provisioner.cli import main

if __name__ == "__main__":
    sys.exit(main())
