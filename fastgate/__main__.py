"""`python -m fastgate`: the same as the `fastgate` command."""

from fastgate.cli import main

if __name__ == "__main__":
    main()
