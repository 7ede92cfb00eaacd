"""Languages of files by GitHub Linguist's published rules, and what those rules say besides: vendored, generated, documentation."""
