"""Near-duplicates: shingles, signatures, buckets, links, clusters and survivors."""
