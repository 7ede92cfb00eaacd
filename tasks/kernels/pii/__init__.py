"""PII: screening, detection and replacement."""
