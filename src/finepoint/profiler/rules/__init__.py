"""Rules: pure functions of a recording."""
