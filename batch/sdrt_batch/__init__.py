"""Many pictures on many machines: ``python -m sdrt_batch`` on Ray Data. docs/BATCH.md says how."""

import os

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads it when it is imported: nothing is reported to its makers
