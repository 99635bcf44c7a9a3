"""The control socket's daemon side: the server and one function per command."""
