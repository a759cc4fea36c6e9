"""Queries that no model should write, drawn without end: mutated golds, statements that change things, endless ones,
huge values, text that is no text. Also a script: ``python hostile_sql.py N`` prints the first N."""

import random
import sys
from collections.abc import Callable, Iterator

TABLES = ("singer", "song")
COLUMNS = ("name", "age", "country", "singer_id", "title", "year", "sales", "*", "T1.name", "song.singer_id")
GOLDS = (
    "SELECT name , age FROM singer ORDER BY age DESC LIMIT 1",
    "SELECT count(*) FROM singer WHERE country = 'France' OR age > 20",
    "SELECT T1.name , count(*) FROM singer AS T1 JOIN song AS T2 ON T1.singer_id = T2.singer_id GROUP BY T1.name",
    "SELECT country FROM singer GROUP BY country HAVING count(*) > 1 ORDER BY count(*) DESC",
    "SELECT title FROM song WHERE sales > (SELECT avg(sales) FROM song)",
    "SELECT name FROM singer WHERE singer_id NOT IN (SELECT singer_id FROM song)",
    "SELECT name FROM singer WHERE age > 20 INTERSECT SELECT name FROM singer WHERE country LIKE '%a%'",
    "SELECT count(*) FROM (SELECT DISTINCT country FROM singer)",
)
WORDS = (
    "select", "from", "where", "and", "or", "not", "in", "like", "between", "exists", "is", "null", "case", "when",
    "then", "else", "end", "distinct", "count", "max", "union", "all", "intersect", "except", "order", "by", "group",
    "having", "limit", "offset", "asc", "desc", "join", "left", "on", "as", "(", ")", ",", ";", "*", "=", "!=", "<>",
    ">=", "+", "-", "/", "1", "0", "-1", "9223372036854775807", "1e308", "'x'", '"', "'", "''", "--", "/*", "*/", "?",
    ":a", "@b", "`", "[", "]", "\\", ".", "..", "!", "||", "%", "~", "<<", "0x1f", "x'ff'",
)  # fmt: skip
CHANGES = (
    "DROP TABLE {t}", "DELETE FROM {t}", "UPDATE {t} SET {c} = 1", "INSERT INTO {t} VALUES (1, 2, 3, 4)",
    "CREATE TABLE {t}2 AS SELECT * FROM {t}", "CREATE TEMP TABLE x (a)", "CREATE INDEX i ON {t} (age)",
    "CREATE VIEW v AS SELECT * FROM {t}", "CREATE TRIGGER g AFTER INSERT ON {t} BEGIN DELETE FROM {t}; END",
    "ALTER TABLE {t} RENAME TO gone", "CREATE VIRTUAL TABLE f USING fts5(a)", "VACUUM", "VACUUM INTO 'hostile.db'",
    "ANALYZE", "REINDEX", "BEGIN IMMEDIATE", "COMMIT", "ROLLBACK", "SAVEPOINT s", "RELEASE s",
    "ATTACH 'hostile.db' AS x", "ATTACH ':memory:' AS x", "DETACH main", "PRAGMA writable_schema = 1",
    "PRAGMA journal_mode = DELETE", "PRAGMA user_version = 7", "PRAGMA temp_store_directory = '.'",
    "PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA mmap_size = 1", "SELECT load_extension('x')",
    "SELECT writefile('hostile.db', 'x')", "EXPLAIN QUERY PLAN SELECT * FROM {t}",
    "SELECT * FROM pragma_table_info('{t}')", "SELECT * FROM sqlite_master", "SELECT * FROM dbstat",
    "WITH x AS (SELECT 1) DELETE FROM {t}", "INSERT INTO {t} SELECT * FROM {t} RETURNING *",
)  # fmt: skip
ENDLESS = (
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT {a} FROM c",
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c ORDER BY {r}",
    "WITH RECURSIVE c(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM c) SELECT length(x) FROM c",
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT 1 FROM c, c) SELECT * FROM c",
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {n}) SELECT DISTINCT hex(zeroblob(x)) "
    "FROM c",
    "SELECT count(*) FROM {many}",
    "SELECT * FROM {many}",
    "SELECT count(DISTINCT {r}) FROM {many}",
    "SELECT group_concat({r}) FROM {many}",
)
HUGE = (
    "SELECT randomblob({n})", "SELECT zeroblob({n}) FROM singer, song", "SELECT hex(zeroblob({n}))",
    "SELECT printf('%{n}d', 1)", "SELECT printf('%.*c', {n}, 'x')", "SELECT replace(hex(zeroblob({n})), '0', '00000')",
    "SELECT hex(zeroblob({n})) LIKE '%0%0%0%0%0%0%0%0%1'", "SELECT hex(zeroblob({n})) GLOB '*0*0*0*0*0*0*0*1'",
    "SELECT instr(printf('%.*c', {n}, 'a'), printf('%.*c', {n} / 2, 'a') || 'b')",
    "SELECT quote(zeroblob({n}))", "SELECT json_group_array(zeroblob({n})) FROM singer", "SELECT char({n}, 0, 55296)",
    "SELECT substr(zeroblob({n}), {n})", "SELECT unhex(hex(randomblob({n})))", "SELECT sum({n} * {n} * 1e300)",
    "SELECT CAST(randomblob({n}) AS TEXT) FROM singer", "SELECT upper(CAST(randomblob({n}) AS TEXT))",
)  # fmt: skip
ODD = "\0\x01\t\n\r\x1a\x7f\x80\u00a0\u2003\u200b\u202e\ufeff\ufffe\uffffé«\u2019\U0001f600\U0010ffff\ud800\udfff"


def hostile_queries(seed: int = 0) -> Iterator[str]:
    """Without end, the same for the same seed."""
    draw = random.Random(seed)
    while True:
        yield draw.choice(KINDS)(draw)


def mutated(draw: random.Random) -> str:
    words = draw.choice(GOLDS).split(" ")
    for _ in range(draw.randrange(1, 5)):
        place, others = draw.randrange(len(words)), draw.choice(GOLDS).split(" ")
        what = draw.randrange(6)
        if what == 0:
            words[place] = draw.choice(WORDS)
        elif what == 1:
            words.insert(place, draw.choice(WORDS))
        elif what == 2 and len(words) > 1:
            del words[place]
        elif what == 3:
            words[place : place + draw.randrange(5)] = others[draw.randrange(len(others)) :][: draw.randrange(1, 6)]
        elif what == 4:
            words[place] = draw.choice(COLUMNS + TABLES)
        else:
            words = [*words, *draw.choices(words, k=5)]
    return draw.choice([" ", " ", " ", "  ", "\n", ""]).join(words)


def flipped(draw: random.Random) -> str:
    """Characters of a gold replaced, removed and added."""
    text = list(draw.choice(GOLDS))
    for _ in range(draw.randrange(1, 8)):
        place = draw.randrange(len(text))
        text[place : place + draw.randrange(3)] = draw.choice(ODD + "'\"();,.*=<>!-%x0 ") * draw.choice([0, 1, 1, 2])
        text = text or ["x"]
    return "".join(text)


def filled(templates: tuple[str, ...], draw: random.Random) -> str:
    number = draw.choice([0, 1, 1000, 65_536, 900_000, 999_999, 2**30, 2**31, 2**63 - 1, -1])
    return draw.choice(templates).format(
        t=draw.choice(TABLES),
        c=draw.choice(COLUMNS),
        a=draw.choice(["count(*)", "x", "max(x)", "group_concat(x)", "x, hex(zeroblob(1000))"]),
        r=draw.choice(["random()", "randomblob(1000)", "hex(randomblob(100))", "1"]),
        n=number,
        many=", ".join(f"{draw.choice(TABLES)} t{place}" for place in range(draw.choice([3, 6, 12, 30, 70]))),
    )


def several(draw: random.Random) -> str:
    """Statements one after the other, or one inside another."""
    one, other = draw.choice(GOLDS), filled(draw.choice([CHANGES, ENDLESS, HUGE]), draw)
    return draw.choice([f"{one}; {other}", f"{other}; {one}", f"{one} UNION {other}", f"SELECT ({other})", f"{one}/*"])


def nested(draw: random.Random) -> str:
    depth = draw.choice([10, 60, 200, 1000, 5000])
    head, tail = draw.choice(
        [("(", ")"), ("SELECT (", ")"), ("SELECT name FROM singer WHERE age IN (", ")"), ("SELECT * FROM (", ")"),
         ("SELECT name FROM singer UNION ", ""), ("not ", ""), ("case when ", " end"), ("SELECT -", ""), ("+", "+"),
         ("SELECT name FROM singer WHERE age = 1 or ", ""), ("select count ( ", " )")]
    )  # fmt: skip
    return head * depth + draw.choice([*GOLDS, "1", "name"]) + tail * draw.choice([depth, 0, depth + 1])


def long(draw: random.Random) -> str:
    length = draw.choice([2_000, 19_900, 90_000, 250_000])
    piece = draw.choice([*WORDS, *ODD, " ", ".", "(", ")", "'", "a, ", "name , ", "= = ", ". ) ", "''", "!=", "`", "x"])
    filling = piece * (length // len(piece))
    frames = ("{}", "SELECT name FROM singer WHERE name = '{}'", "SELECT {} FROM singer", "SELECT name FROM singer {}")
    return draw.choice((*frames, "SELECT name FROM singer -- {}")).replace("{}", filling)


def noise(draw: random.Random) -> str:
    alphabet = draw.choice([ODD, ODD + "select from where ", "'\"` ", "".join(map(chr, range(32, 127)))])
    return "".join(draw.choices(alphabet, k=draw.choice([0, 1, 10, 100, 3000])))


KINDS: tuple[Callable[[random.Random], str], ...] = (
    mutated, mutated, mutated, flipped, flipped, several, nested, long, noise,
    lambda draw: filled(CHANGES, draw), lambda draw: filled(CHANGES, draw),
    lambda draw: filled(HUGE, draw), lambda draw: filled(ENDLESS, draw),
)  # fmt: skip

if __name__ == "__main__":
    for _, query in zip(range(int(sys.argv[1])), hostile_queries(), strict=False):
        print(ascii(query[:200]))
