"""``python -m sdrt`` is the command ``sdrt``."""

from sdrt.command.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
