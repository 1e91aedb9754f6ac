"""``python -m paddlemix`` is the command ``paddlemix``."""

from .cli.main import console_script

if __name__ == "__main__":
    console_script()
