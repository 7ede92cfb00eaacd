"""Licences: which one a text states, which one an expression names, and what a policy permits."""
