"""The frame that runs a stage: its declaration, its inputs and keys, its workers and child processes. A stage's author need not read it."""
