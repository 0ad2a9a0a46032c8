"""One figure per file: reads a table, draws, saves; never loads a model."""
