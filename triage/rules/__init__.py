"""What do the words state, and does it hold now? Rules are data (`*.toml`); `book` loads and applies them."""
