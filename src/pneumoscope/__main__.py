"""``python -m pneumoscope``: the command line, also where the script is not on the path."""

from pneumoscope.cli.main import main

if __name__ == "__main__":
    main()
