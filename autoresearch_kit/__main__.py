"""`python -m autoresearch_kit` is `ark`."""

from autoresearch_kit.cli import main

if __name__ == "__main__":
    main(prog_name="ark")
