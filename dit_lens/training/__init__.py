"""How the bundled models are made: `python -m dit_lens.training --model NAME`."""
