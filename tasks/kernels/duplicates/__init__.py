"""Near-duplicates: shingles, signatures, buckets, links, clusters and which of a cluster stays."""
