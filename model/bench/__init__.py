"""Measuring the trainer: apart from the essay that it measures. `python -m starloom.model.bench`."""
