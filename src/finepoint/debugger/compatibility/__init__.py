"""Compatibility with smdebug: a package of that name for scripts that import it."""
