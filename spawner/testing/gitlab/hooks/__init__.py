"""Project hooks: what is told to whom, and what became of it."""
