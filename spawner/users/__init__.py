"""People: who is signed in, with which rights, and the tokens that prove it."""
