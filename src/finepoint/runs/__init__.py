"""A run: what one `finepoint run` leaves, the steps that make it, and how it is resumed."""
