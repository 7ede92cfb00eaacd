"""Personal data: where it could stand, what it is, and how it is replaced."""
