"""``python -m eztinker``: the command line, without needing the installed script."""

from eztinker.cli.main import run

if __name__ == "__main__":
    run()
