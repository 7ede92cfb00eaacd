"""Source files: repositories on this machine, and the classification of a file by its name."""
