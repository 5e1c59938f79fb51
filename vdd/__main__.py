"""`python -m vdd` is the command `vdd`."""

from vdd.cli import main

if __name__ == "__main__":
    main()
