"""Bench of the web console on a large store: `python -m starloom.bench.console`."""
