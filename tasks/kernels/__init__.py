"""Algorithms on bytes and arrays, by subject. They import nothing of ours but each other, floor by floor."""
