"""The command line: the command ``paddlemix``, what its subcommands share, and the chat in a terminal."""
