"""`python -m semanticd`: the same program as the `semanticd` command."""

from semanticd.entrypoints.cli import main

if __name__ == "__main__":
    main()
