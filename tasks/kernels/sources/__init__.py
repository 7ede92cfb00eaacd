"""Where source files come from: repositories on this machine, and what a file is by its name."""
