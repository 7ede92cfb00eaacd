"""The stages: one module each, a config class and a function."""
