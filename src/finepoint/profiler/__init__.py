"""Where time and machine go while a job runs: samplers, step phases, rules, and what to change."""
