"""The process ``sdrt``: the installed command and ``python -m sdrt`` begin here."""

from sdrt.command import process


def main() -> int:
    """Run the command of ``sys.argv``; returns its exit code."""
    process.begin()
    from sdrt.command import cli  # takes a while, in which an interrupt must find everything ready

    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
