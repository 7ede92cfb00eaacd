"""What a token of a packed sequence is for."""

ROLES = ("text", "prefix", "middle", "suffix", "metadata", "sentinel", "eod", "pad")
"""By name; kernels and Spans' writer store a role as its position here."""
TEXT, PREFIX, MIDDLE, SUFFIX, METADATA, SENTINEL, EOD, PAD = range(len(ROLES))
NUM_DOCUMENT_ROLES = 4
"""The first so many are bytes of a document; the others are the template's."""
DOCUMENT_ROLES = ROLES[:NUM_DOCUMENT_ROLES]
