"""Queries of a store: the fate of a document, the documents a run kept, the documents a checkpoint saw."""
