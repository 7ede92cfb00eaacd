"""Pure algorithms on bytes and arrays. They import nothing of ours."""
