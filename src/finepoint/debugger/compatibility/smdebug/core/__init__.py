"""Where scripts import single names from."""
