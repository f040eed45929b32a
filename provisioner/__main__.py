"""`python -m provisioner` is the same as `provisioner`, and ends with the same exit status."""

import sys

from provisioner.cli import main

if __name__ == "__main__":
    sys.exit(main())
