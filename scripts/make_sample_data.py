"""Generate the sample data (``data=sample``) that the package ships.

    python scripts/make_sample_data.py             # write ssm_tune/tasks/sample again
    python scripts/make_sample_data.py --out DIR   # write the same files elsewhere

The rows are the same on every machine. The bytes of gzip and SQLite files vary with the version of their libraries, so
files made again are compared by content (tests/scripts/test_sample_data.py).
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sample_world.databases import write_spider
from sample_world.dialogues import samsum_rows
from sample_world.glue import MEMBERS, glue_rows
from sample_world.triples import dart_rows

from ssm_tune.tasks.sample_data import FOLDER, SPIDER_FOLDER, rows_file


def data_sets() -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(name, split, rows) of all that is not Spider's."""
    for split in ("train", "val", "test"):
        yield "samsum", split, samsum_rows(split)
        yield "dart", split, dart_rows(split)
    for member in MEMBERS:
        for split in ("train", "val"):
            yield member, split, glue_rows(member, split)


def write_sample_data(folder: Path) -> None:
    """Write all files into ``folder``, which is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, split, rows in data_sets():
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (folder / rows_file(name, split)).write_bytes(gzip.compress(content, mtime=0))
    spider = folder / SPIDER_FOLDER.name
    spider.mkdir()
    write_spider(spider)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="replaced by the new files")
    write_sample_data(parser.parse_args().out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
