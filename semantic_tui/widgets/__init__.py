"""Parts of screens; each shows a piece of the watch state."""
