"""Files that survive a crash: atomic writes, private folders, the write queue."""
