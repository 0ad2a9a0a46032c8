"""One question per file: `python -m analyses.NAME --help`."""
