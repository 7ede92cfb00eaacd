"""What carries a stage out: its declaration, its inputs and keys, its workers and children. No stage's author needs to open it."""
