"""Recipe → plan → run: what is to be done, why, and the Prefect flow that does it."""
