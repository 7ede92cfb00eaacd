"""The store: parts, artifacts, actions and records."""
