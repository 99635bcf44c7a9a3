"""The engine thread: its queue, its loop, and the phases of a sequence."""
