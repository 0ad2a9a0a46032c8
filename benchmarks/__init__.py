"""One claim per script, measured side by side in one run."""
