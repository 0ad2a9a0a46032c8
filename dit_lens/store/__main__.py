"""Commands on stores of activations: `python -m dit_lens.store merge OUT PART...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dit_lens.store.merging import merge


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; 0 where it ended well, and 2 with one line where it did not."""
    options = parser().parse_args(arguments)
    try:
        store = merge(options.out, options.parts)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{store!r}\n{store.bytes / 1e9:.4g} GB in {options.out}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    commands = argparse.ArgumentParser("python -m dit_lens.store", description="Work on stores of activations.")
    added = commands.add_subparsers(required=True, metavar="COMMAND")
    merging = added.add_parser(
        "merge",
        help="put parts of one plan together",
        description="Copies the finished batches of all parts into OUT. Parts must have been captured with the same"
        " options (by --shard, for example); digests are checked, and a batch in several parts must be equal in all.",
    )
    merging.add_argument("out", type=Path, metavar="OUT", help="folder of the whole store; it may hold a part already")
    merging.add_argument("parts", type=Path, nargs="+", metavar="PART", help="folder of a part")
    return commands


if __name__ == "__main__":
    sys.exit(main())
