"""Images, where they came from, and how they reach a batch."""
