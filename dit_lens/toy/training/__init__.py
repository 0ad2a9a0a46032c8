"""How the bundled models are made: `python -m dit_lens.toy.training --model NAME`."""
