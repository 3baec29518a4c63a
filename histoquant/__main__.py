"""`python -m histoquant`."""

if __name__ == "__main__":
    # Not above: worker processes load this module too, and need no command line.
    from histoquant.cli import main

    main()
