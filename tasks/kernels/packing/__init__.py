"""From token ids to training sequences: fill-in-the-middle, mixtures, packing, and the origin of every token."""
