"""The debugger: a hook that records what training does, recordings, and rules that name what is wrong with it."""
