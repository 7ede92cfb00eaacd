"""Programs that models write: the problems, the running of answers under limits, the scores."""
