"""Times stages and kernels side by side with their peers: `python -m starloom.bench NAME`.

A bench is a module of this package with two names: `TITLE`, one line, and `TOOLS`, a tuple of `starloom.bench._tool.Tool`.
"""
