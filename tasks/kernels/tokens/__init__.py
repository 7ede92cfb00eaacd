"""Byte-level BPE: pre-tokens, merges, special tokens, and tokenizers made elsewhere."""
