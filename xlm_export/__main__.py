"""`xlm-export`, also as `python -m xlm_export`. Whatever is slow is imported where an interrupt is caught."""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, by default the program's; returns the exit status, 130 when interrupted."""
    try:
        from xlm_export.cli.main import main as run

        return run(arguments)
    except KeyboardInterrupt:
        print("xlm-export: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
