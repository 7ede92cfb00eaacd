"""The questions asked of a store: what became of a document, what a run kept, what a checkpoint saw."""
