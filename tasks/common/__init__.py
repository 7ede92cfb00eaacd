"""Code that several stages share: clusters of duplicates, files from the Hub."""
