"""Web console: pages about runs, stages, documents, sequences and checkpoints of a store."""
