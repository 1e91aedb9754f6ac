"""The command line: what programs share, and the chat in a terminal."""
