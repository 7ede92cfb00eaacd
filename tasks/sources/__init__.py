"""Kinds of sources as a recipe names them: one config class a file; the kernels of `sources` list and read them."""
