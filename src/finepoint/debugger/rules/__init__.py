"""Rules: each says of a recording whether something is wrong, why, and what to do; docs/rules.md lists them."""
