"""``python -m ssm_tune`` is ``ssm-tune``."""

import sys

from ssm_tune.cli import main

sys.exit(main())
