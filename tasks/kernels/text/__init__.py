"""Text as bytes: Arrow columns without copies, words, substrings, measures, and draws fixed by a name."""
