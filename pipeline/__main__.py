"""`python -m pipeline`."""

from pipeline.cli.main import main

if __name__ == "__main__":  # engines and workers spawn processes that import this module
    main()
