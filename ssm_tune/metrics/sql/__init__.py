"""Spider's metrics: exact set match by the official rules, execution match by the official and by saner ones.

``spider_scores`` computes all of them; ``read_schemas``, ``find_schema`` and ``find_databases`` read what it needs.
"""

from ssm_tune.metrics.sql.databases import find_databases
from ssm_tune.metrics.sql.schema import Database, Schema, find_schema, read_schemas
from ssm_tune.metrics.sql.spider import (
    LEVELS,
    METRICS,
    Interrupted,
    check_golds,
    hardness_counts,
    signatures,
    spider_scores,
)

__all__ = [
    "LEVELS",
    "METRICS",
    "Database",
    "Interrupted",
    "Schema",
    "check_golds",
    "find_databases",
    "find_schema",
    "hardness_counts",
    "read_schemas",
    "signatures",
    "spider_scores",
]
