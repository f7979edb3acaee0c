"""Which image a commit starts with, and why: the ladder, its builds, and their logs."""
