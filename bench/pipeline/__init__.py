"""Where the seconds of a whole pipeline go."""
