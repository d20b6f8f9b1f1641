"""The feature cache, the heads, the training loop and its entry point."""
