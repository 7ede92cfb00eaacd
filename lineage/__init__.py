"""Parts, artifacts, actions and records: the store, and the questions asked of it."""
