"""`python -m provisioner` is the same as `provisioner`."""

from provisioner.cli import main

if __name__ == "__main__":
    main()
