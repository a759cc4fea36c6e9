"""Spider's metrics: exact set match by the official rules, execution match by the official and by saner ones.

``spider_scores`` computes all of them; ``read_schemas``, ``find_schema`` and ``find_database`` read what it needs.
"""

from ssm_tune.metrics.sql.databases import find_database
from ssm_tune.metrics.sql.schema import Database, Schema, find_schema, read_schemas, schema_of_database
from ssm_tune.metrics.sql.spider import LEVELS, METRICS, hardness_counts, signatures, spider_scores

__all__ = [
    "LEVELS",
    "METRICS",
    "Database",
    "Schema",
    "find_database",
    "find_schema",
    "hardness_counts",
    "read_schemas",
    "schema_of_database",
    "signatures",
    "spider_scores",
]
