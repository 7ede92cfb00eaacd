"""How near-deduplication behaves at a size that no corpus at hand has."""
