"""Benchmarks of the trainer. `python -m starloom.model.bench`."""
