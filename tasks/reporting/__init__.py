"""What people read of a run: cards in Markdown and charts."""
